"""The exact error of any model on a dataset's validation split, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

from ensemble.model import Model
from ensemble.verdict import Verdict, judge
from infra.errors import DataError
from infra.progress import Progress
from infra.storage import Place
from train.evaluate import BATCH
from train.prefetch import ahead
from train.samples import Samples


def val_samples(dataset: Place) -> Samples:
    """What `score_model` reads; raises `DataError` for no dataset, or no pictures in its val."""
    return Samples(dataset, "val", cache_bytes=0)


def score_model(model: Model, samples: Samples, *, num_views: int = 1) -> dict[int, Verdict]:
    """The verdicts from 1 view, the centre, and from `num_views`, out of one pass over the split.

    Each picture is read once; memory does not grow with their number. Raises `DataError` when the
    dataset's classes are not the model's.
    """
    _demand_classes(model, samples)
    chunks = np.array_split(np.arange(len(samples)), -(-len(samples) // BATCH))
    batches = ahead(samples.fetch, chunks, threads=2)
    with Progress("evaluate", len(samples), "images") as progress:
        return judge_batches(model, batches, num_views=num_views, advance=progress.advance)


def judge_batches(
    model: Model,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_views: int,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, Verdict]:
    """The same of batches of pictures (N, 3, 256, 256) uint8 and labels (N,) int64.

    `advance` is told the number of pictures of each batch when it is done.
    """
    total: dict[int, Verdict] = {}
    for images_u8, labels in batches:
        for views, found in model.by_views(images_u8, num_views).items():
            part = judge(found, labels, views)
            total[views] = total[views] + part if views in total else part
        advance(len(labels))
    return total


def _demand_classes(model: Model, samples: Samples) -> None:
    ours, theirs = (
        [name.wnid for name in names] for names in (model.classes, samples.manifest.classes)
    )
    if ours == theirs:
        return
    where = f"'{samples.place.uri}' are not those of '{model.name}'"
    if len(ours) != len(theirs):
        raise DataError(f"the {len(theirs):,} classes of {where}, which knows {len(ours):,}.")
    label = next(at for at, wnid in enumerate(ours) if wnid != theirs[at])
    raise DataError(
        f"the classes of {where}: label {label} is '{theirs[label]}' there, '{ours[label]}' here."
    )
