"""When the learning rate falls: pure functions of the recipe, the epoch and the recorded errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra.recipes import Recipe, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """The learning rates of one epoch."""

    lr: float  # of most weights: what a log line shows
    weights: Mapping[str, float]  # of each layer's weights
    biases: Mapping[str, float]  # of each layer's biases


def rates(recipe: Recipe, epoch: int, errors: Sequence[float]) -> Rates:
    """The rates of epoch `epoch` (0 = first), after the validation errors of the epochs before it.

    errors: top-1 error (share, 0 to 1) after each finished epoch, oldest first; only "plateau"
    reads them, and only the first `epoch` of them, so a resumed run decides as the first one did.
    """
    share = factor(recipe.schedule, epoch, errors)
    lr, bias_lr = recipe.optimizer.lr * share, recipe.optimizer.bias_lr * share
    return Rates(
        lr=lr,
        weights=dict.fromkeys(recipe.layers, lr),
        biases=dict.fromkeys(recipe.layers, bias_lr),
    )


def factor(schedule: Schedule, epoch: int, errors: Sequence[float]) -> float:
    """What the first epoch's rate is multiplied by in epoch `epoch`."""
    if schedule.kind == "exponential":
        return float(schedule.final ** (epoch / max(schedule.epochs - 1, 1)))
    if schedule.kind == "epochs":
        return float(schedule.factor ** sum(epoch >= at for at in schedule.at))
    return float(schedule.factor ** plateaus(schedule, errors[:epoch]))


def plateaus(schedule: Schedule, errors: Sequence[float]) -> int:
    """How often the validation error stopped improving (section 5), at most `drops` times.

    A drop comes when `patience` epochs since the best error, or since the last drop, brought no
    error lower by more than `min_gain`.
    """
    best, waited, drops = float("inf"), 0, 0
    for error in errors:
        waited += 1
        if error < best - schedule.min_gain:
            best, waited = error, 0
        if waited >= schedule.patience and drops < schedule.drops:
            drops, waited = drops + 1, 0
    return drops
