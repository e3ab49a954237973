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
    schedule, optimizer = recipe.schedule, recipe.optimizer
    share, bias_share = factor(schedule, epoch, errors), bias_factor(schedule, epoch, errors)
    weights = dict.fromkeys(recipe.layers, optimizer.lr * share)
    biases = dict.fromkeys(recipe.layers, optimizer.bias_lr * bias_share)
    for name, levels in schedule.own.items():
        passed = sum(epoch >= at for at in levels.at)
        level = levels.to[passed - 1] if passed else 1.0
        weights[name] = optimizer.lr * level
        if level == 0.0:
            biases[name] = 0.0  # a frozen layer's biases are frozen too (2012 source)
    return Rates(lr=optimizer.lr * share, weights=weights, biases=biases)


def factor(schedule: Schedule, epoch: int, errors: Sequence[float]) -> float:
    """What the first epoch's rate is multiplied by in epoch `epoch`."""
    if schedule.kind == "exponential":
        return float(schedule.final ** (epoch / max(schedule.epochs - 1, 1)))
    return float(schedule.factor ** drops(schedule, epoch, errors))


def bias_factor(schedule: Schedule, epoch: int, errors: Sequence[float]) -> float:
    """The same for biases, which may follow only the first drops."""
    if schedule.bias_drops is None:
        return factor(schedule, epoch, errors)
    return float(schedule.factor ** min(drops(schedule, epoch, errors), schedule.bias_drops))


def drops(schedule: Schedule, epoch: int, errors: Sequence[float]) -> int:
    """How often the rate has fallen by the start of epoch `epoch`; 0 for "exponential"."""
    if schedule.kind == "epochs":
        return sum(epoch >= at for at in schedule.at)
    if schedule.kind == "step":
        return epoch // schedule.every
    return plateaus(schedule, errors[:epoch]) if schedule.kind == "plateau" else 0


def plateaus(schedule: Schedule, errors: Sequence[float]) -> int:
    """How often the validation error stopped improving (section 5), at most `drops` times.

    A drop comes when `patience` epochs since the best error, or since the last drop, brought no
    error lower by more than `min_gain`.
    """
    best, waited, found = float("inf"), 0, 0
    for error in errors:
        waited += 1
        if error < best - schedule.min_gain:
            best, waited = error, 0
        if waited >= schedule.patience and found < schedule.drops:
            found, waited = found + 1, 0
    return found
