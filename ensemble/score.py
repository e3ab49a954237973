"""The exact error of any model on a dataset's validation split, in this process."""

from __future__ import annotations

import numpy as np

from ensemble.average import score_members
from ensemble.model import Model
from infra.errors import DataError
from infra.progress import Progress
from infra.storage import Place
from train.evaluate import BATCH, Score
from train.prefetch import ahead
from train.samples import Samples


def score_model(model: Model, dataset: Place, *, num_views: int = 1) -> Score:
    """Counts over the val split, each picture read once; memory does not grow with it.

    Raises `DataError` when the dataset's classes are not the model's.
    """
    samples = Samples(dataset, "val", cache_bytes=0)
    if [name.wnid for name in samples.manifest.classes] != [name.wnid for name in model.classes]:
        raise DataError(f"the classes of '{dataset.uri}' are not those of '{model.name}'.")
    chunks = np.array_split(np.arange(len(samples)), -(-len(samples) // BATCH))
    batches = ahead(samples.fetch, chunks, threads=2)
    with Progress("evaluate", len(samples), "images") as progress:
        scores = score_members(
            model.members, model.weights, batches, num_views=num_views, advance=progress.advance
        )
    return scores.averaged[-1]
