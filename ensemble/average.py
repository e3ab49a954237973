"""The average of the members' predictions, and how often it is right (sections 4.1 and 6).

The paper averages the softmax outputs of its networks; so does this, in float64, so that the
average of equal members is exactly the member. Everything is counted in one pass over the split:
each picture is read once, and no prediction is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from train.evaluate import Score, probabilities_by_views, score
from train.member import LoadedMember


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Exact counts: of each member alone, and of the first 1, 2, ... members averaged."""

    members: tuple[Score, ...]
    averaged: tuple[Score, ...]


def member_probabilities(
    members: Sequence[LoadedMember], images_u8: Tensor, num_views: int = 1
) -> Tensor:
    """Softmax probabilities (M, N, classes) float64 on the CPU, of pictures (N, 3, 256, 256)."""
    return members_by_views(members, images_u8, num_views)[num_views]


def members_by_views(
    members: Sequence[LoadedMember], images_u8: Tensor, num_views: int
) -> dict[int, Tensor]:
    """`member_probabilities` from 1 view and from `num_views`, out of the same forward passes."""
    found = [
        probabilities_by_views(
            loaded.network, images_u8, loaded.stats, loaded.member.recipe, num_views
        )
        for loaded in members
    ]
    return {
        views: torch.stack([part[views].to("cpu", torch.float64) for part in found])
        for views in found[0]
    }


def average(found: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted mean (N, classes) of probabilities (M, N, classes) over the members."""
    return prefix_averages(found, weights)[-1]


def prefix_averages(found: Tensor, weights: Sequence[float]) -> list[Tensor]:
    """The weighted means of the first 1, 2, ... M members: M tensors (N, classes)."""
    total, share, means = torch.zeros_like(found[0]), 0.0, []
    for part, weight in zip(found, weights, strict=True):
        total = total + weight * part
        share += weight
        means.append(total / share)
    return means


def score_members(
    members: Sequence[LoadedMember],
    weights: Sequence[float],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_views: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Counts over batches of pictures (N, 3, 256, 256) uint8 and labels (N,) int64.

    `advance` is told the number of pictures of each batch when it is done.
    """
    nothing = (NOTHING,) * len(members)
    total = Scores(members=nothing, averaged=nothing)
    for images_u8, labels in batches:
        found = member_probabilities(members, images_u8, num_views)
        means = prefix_averages(found, weights)
        counted = Scores(
            members=tuple(score(part, labels) for part in found),
            averaged=tuple(score(mean, labels) for mean in means),
        )
        total = add_scores(total, counted)
        advance(len(labels))
    return total


NOTHING = Score(samples=0, top1_wrong=0, top5_wrong=0, loss=0.0)


def add_scores(one: Scores, other: Scores) -> Scores:
    """The counts of both, for the same members."""
    return Scores(
        members=tuple(map(add, one.members, other.members)),
        averaged=tuple(map(add, one.averaged, other.averaged)),
    )


def add(one: Score, other: Score) -> Score:
    """The counts over the pictures of both."""
    return Score(
        samples=one.samples + other.samples,
        top1_wrong=one.top1_wrong + other.top1_wrong,
        top5_wrong=one.top5_wrong + other.top5_wrong,
        loss=one.loss + other.loss,
    )


def figures(score: Score) -> dict[str, float]:
    """A score as plain values; errors are shares from 0 to 1."""
    return {
        "samples": score.samples,
        "top1_error": score.top1_error,
        "top5_error": score.top5_error,
        "loss": score.mean_loss,
    }


def interval(wrong: int, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of an error share (Wilson 1927), from 0 to 1; it is never empty."""
    share, spread = wrong / samples, z * z / samples
    centre = (share + spread / 2) / (1 + spread)
    reach = z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    return max(centre - reach, 0.0), min(centre + reach, 1.0)
