"""The sums of the epoch in hand, and the row of metrics that they end in."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Self

from train.evaluate import Score
from train.sight import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What an update saw over all replicas.

    `loss` and `wrong` (first guesses) are sums over the global batch of `images`; `norms` are the
    Euclidean norms of the gradient of the batch's mean loss in each half.
    """

    images: int
    loss: float
    wrong: int
    norms: tuple[float, ...]
    stop: bool  # somebody asked to end the run
    look: bool  # time to ask whether a replica's machine is about to be taken away


@dataclass(kw_only=True, slots=True)
class Tally:
    """Sums over the updates of the current epoch so far, over all replicas."""

    updates: int = 0
    images: int = 0
    wrong: int = 0
    loss: float = 0.0
    norms: list[float] = field(default_factory=list)  # of each half
    seconds: float = 0.0
    waited_s: float = 0.0  # of them, waiting for data

    def add(self, update: Update, spent_s: float, waited_s: float) -> None:
        """Counts one more update."""
        self.updates += 1
        self.images += update.images
        self.wrong += update.wrong
        self.loss += update.loss
        before = self.norms or [0.0] * len(update.norms)
        self.norms = [total + norm for total, norm in zip(before, update.norms, strict=True)]
        self.seconds += spent_s
        self.waited_s += waited_s

    def copy(self) -> Self:
        """These sums, no longer changing."""
        return copy.deepcopy(self)

    def row(self, score: Score) -> Row:
        """The epoch's figures: means over its images and updates, and the validation's score."""
        norms = zip("ab", self.norms, strict=False)
        return {
            "train_loss": self.loss / self.images,
            "train_top1_error": self.wrong / self.images,
            "val_loss": score.mean_loss,
            "top1_error": score.top1_error,
            "top5_error": score.top5_error,
            "images_per_s": self.images / max(self.seconds, 1e-9),
            "data_wait": self.waited_s / max(self.seconds, 1e-9),
            **{f"gradient_norm_{half}": total / self.updates for half, total in norms},
        }
