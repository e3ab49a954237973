"""Top-1 and top-5 error, exact to the sample on any number of replicas.

Each replica takes its own samples, without padding, and whole numbers are added up. The rank of
the right class decides: it is in the first k when fewer than k classes come before it, ties going
to the lower label, so that the count does not depend on how a device sorts. (The 2012 source
shares credit among ties; with float32 probabilities they do not occur in practice.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.recipes import Recipe
from train.augment import ImageStatistics, views
from train.network import AlexNet
from train.prefetch import ahead
from train.replica import ALONE, Replica
from train.samples import Samples

BATCH = 128  # pictures of one forward pass; with ten views, as many views


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Counts over `samples` pictures; `loss` is the sum of -log(probability of the right class)."""

    samples: int
    top1_wrong: int
    top5_wrong: int
    loss: float

    @property
    def top1_error(self) -> float:
        """Share of pictures whose first guess is wrong, 0 to 1."""
        return self.top1_wrong / self.samples

    @property
    def top5_error(self) -> float:
        """Share of pictures whose first five guesses are all wrong, 0 to 1."""
        return self.top5_wrong / self.samples

    @property
    def mean_loss(self) -> float:
        """Mean over pictures of -log(probability of the right class)."""
        return self.loss / self.samples


def probabilities(
    network: AlexNet, images_u8: Tensor, stats: ImageStatistics, recipe: Recipe, num_views: int = 1
) -> Tensor:
    """Softmax probabilities (N, classes) float32 on the network's first device.

    images_u8: (N, 3, 256, 256) uint8. Averaged over the views (section 4.1): 1 = the centre, 10 =
    corners and centre with their mirror images.
    """
    return probabilities_by_views(network, images_u8, stats, recipe, num_views)[num_views]


@torch.no_grad()
def probabilities_by_views(
    network: AlexNet, images_u8: Tensor, stats: ImageStatistics, recipe: Recipe, num_views: int
) -> dict[int, Tensor]:
    """`probabilities` from 1 view and from `num_views`, out of the same forward passes."""
    at_once = max(BATCH // num_views, 1)
    centre, mean = [], []
    for chunk in torch.split(images_u8.to(network.devices[0]), at_once):
        shown = views(chunk, stats, recipe, num_views)
        found = torch.softmax(network(shown.flatten(0, 1)), 1).view(len(chunk), num_views, -1)
        centre.append(found[:, 0])  # `views` puts the centre, not mirrored, first
        mean.append(found.mean(1))
    return {1: torch.cat(centre), num_views: torch.cat(mean)}


def score(probabilities: Tensor, labels: Tensor) -> Score:
    """The counts of some pictures: probabilities (N, classes), labels (N,) int64.

    A picture whose probabilities are not numbers counts as wrong, and the loss is no number.
    """
    ranks = _ranks(probabilities, labels)
    own = probabilities.gather(1, labels[:, None]).double()
    floor = torch.finfo(torch.float32).tiny  # an averaged probability may underflow to 0
    return Score(
        samples=len(labels),
        top1_wrong=int((ranks >= 1).sum()),
        top5_wrong=int((ranks >= 5).sum()),
        loss=float(-own.clamp_min(floor).log().sum()),
    )


def class_counts(probabilities: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Of each class its pictures, and those wrong in the first guess and in all five: (classes, 3).

    Of the arguments of `score`, whose counts are the sums over the classes.
    """
    ranks = _ranks(probabilities, labels)
    counted = torch.stack((ranks >= 0, ranks >= 1, ranks >= 5), 1).long()
    nothing = torch.zeros((probabilities.shape[1], 3), dtype=torch.int64, device=labels.device)
    counts: NDArray[np.int64] = nothing.index_add(0, labels, counted).cpu().numpy()
    return counts


def evaluate(
    network: AlexNet,
    samples: Samples,
    stats: ImageStatistics,
    *,
    replica: Replica = ALONE,
    num_views: int = 1,
    stop: Callable[[], bool] | None = None,
) -> Score | None:
    """The score over all samples of a split, the same on every replica.

    None when `stop` became true on a replica before the end: all of them leave together.
    """
    mine = np.arange(len(samples))[replica.part(len(samples))]
    rounds = -(-len(samples) // (replica.count * BATCH))  # parts differ by at most one sample
    chunks = np.array_split(mine, rounds)
    counts = np.zeros(4)
    for images_u8, labels in ahead(samples.fetch, chunks, network.recipe.compute.cores):
        if stop is not None and replica.any(stop()):
            return None
        found = probabilities(network, images_u8, stats, network.recipe, num_views)
        part = score(found, labels.to(found.device))
        counts += (part.samples, part.top1_wrong, part.top5_wrong, part.loss)
    total, top1, top5, loss = replica.total([float(count) for count in counts])
    return Score(samples=int(total), top1_wrong=int(top1), top5_wrong=int(top5), loss=loss)


def _ranks(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the right one (N,); NaN puts all of them there."""
    own = probabilities.gather(1, labels[:, None])
    before = ~(probabilities <= own)
    number = torch.arange(probabilities.shape[1], device=labels.device)
    tied = (probabilities == own) & (number < labels[:, None])
    return (before | tied).sum(1)
