"""What a preprocessing would cost, from the listing alone: nothing is read, nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.storage import Place
from pipeline.header import MAX_FILE
from pipeline.plan import Plan

IMAGES_A_CORE_SECOND = 350.0  # of 500x375 pixels; see `septet bench preprocess`
STORED_BYTES = 21_500  # a 256x256 JPEG of quality 90 with its tar headers and label, on photographs
REQUESTS_A_SHARD = 4  # on S3: look-up, shard, its record, and the record read back


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Estimates but for `images`, `classes`, `shards` and `source_bytes`, which are counted."""

    source: str
    classes: int
    images: dict[str, int]
    shards: int
    shard_samples: int
    too_large: int  # files beyond the limit, which would be refused
    source_bytes: int
    stored_bytes: int
    read_requests: int  # one an image, whole or ranged
    write_requests: int
    core_hours: float


def cost(place: Place, plan: Plan) -> Cost:
    """The figures of a plan."""
    listings = plan.splits.values()
    shards = sum(plan.num_shards(split) for split in plan.splits)
    return Cost(
        source=place.uri,
        classes=len(plan.splits["train"].classes),
        images={split: len(listing) for split, listing in plan.splits.items()},
        shards=shards,
        shard_samples=plan.shard_samples,
        too_large=sum(int(np.count_nonzero(listing.sizes > MAX_FILE)) for listing in listings),
        source_bytes=sum(int(listing.sizes.sum(dtype=np.int64)) for listing in listings),
        stored_bytes=plan.images * STORED_BYTES,
        read_requests=plan.images,
        write_requests=shards * REQUESTS_A_SHARD,
        core_hours=round(plan.images / IMAGES_A_CORE_SECOND / 3600, 2),
    )
