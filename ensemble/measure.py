"""Measures an ensemble on its dataset's validation split, in parallel on the connected cluster.

Each task takes its own samples, reads each once, and sends whole numbers back, so the counts are
exact for any number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ray
import torch

from ensemble.average import (
    Scores,
    add_scores,
    average,
    member_probabilities,
    score_members,
)
from ensemble.examples import Example, choose, make_examples
from ensemble.model import load_members
from infra import cluster
from infra.storage import open_place
from train.evaluate import BATCH
from train.prefetch import ahead
from train.samples import Samples


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to measure: member folders, averaged with `weights`, over a dataset's val split."""

    runs: tuple[str, ...]
    weights: tuple[float, ...]
    dataset: str
    views: int
    device: str
    cores: int  # of one task


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One task: samples `first`, `first` + `step`, ...; and the examples, if they are its too."""

    request: Request
    first: int
    step: int
    examples: tuple[int, ...]


def measure(
    request: Request, advance: Callable[[int], None] = lambda _: None
) -> tuple[Scores, list[Example]]:
    """Exact scores of the members and of the first 1, 2, ... averaged, and the report's examples.

    `advance` is told the pictures done. Raises what reading the members or the dataset raises.
    """
    pieces = split(request, _room(request))
    need = {"num_cpus": request.cores, "num_gpus": float(request.device == "cuda")}
    total, examples = None, list[Example]()
    for _, found in cluster.map_unordered(
        measure_piece, pieces, in_flight=len(pieces), resources=need
    ):
        if isinstance(found, Exception):
            raise found
        scores, some = found
        total = scores if total is None else add_scores(total, scores)
        examples = examples or some
        advance(scores.averaged[0].samples)
    assert total is not None
    return total, examples


def measure_here(request: Request) -> tuple[Scores, list[Example]]:
    """The same, in this process."""
    (whole,) = split(request, 1)
    return measure_piece(whole)


def split(request: Request, tasks: int) -> list[Piece]:
    """At most so many tasks, each with a batch at least; the first has the examples."""
    samples = Samples(open_place(request.dataset), "val")
    tasks = min(tasks, -(-len(samples) // BATCH))
    chosen = tuple(choose(samples.labels).tolist())
    return [
        Piece(request=request, first=at, step=tasks, examples=() if at else chosen)
        for at in range(tasks)
    ]


def _room(request: Request) -> int:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = total.get("CPU", 1) // request.cores
    return max(int(min(room, total.get("GPU", 0)) if request.device == "cuda" else room), 1)


def measure_piece(piece: Piece) -> tuple[Scores, list[Example]]:
    """A task's whole life; the examples are empty but in one of them."""
    request = piece.request
    torch.set_num_threads(request.cores)
    members = load_members([open_place(run) for run in request.runs], request.device)
    samples = Samples(open_place(request.dataset), "val", cache_bytes=0)
    ids = np.arange(piece.first, len(samples), piece.step)
    chunks = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    batches = ahead(samples.fetch, chunks, request.cores)
    scores = score_members(members, request.weights, batches, num_views=request.views)
    if not piece.examples:
        return scores, []
    images_u8, labels = samples.fetch(piece.examples)
    found = average(member_probabilities(members, images_u8, request.views), request.weights)
    return scores, make_examples(samples.keys(piece.examples), images_u8, labels, found)
