"""What will be made, fixed before anything is: the order of images, the shards, the image rule.

The plan is a pure function of listing, seed and options, so a shard's bytes are determined by it:
making one twice is harmless, and a re-run knows what is missing. Its record is the first object
written; another plan is refused there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from infra.manifest import DATASET_FORMAT, read_json, sha256, to_json
from infra.storage import Place
from pipeline.listing import Listing
from pipeline.rule import ImageRule, decoders

RECORD = "_commits/plan.json"
SHARD_SAMPLES = 1024  # about 20 MB a shard
CHUNK = 1 << 16  # keys of a permutation that are mixed at a time
FEWEST_SHARDS = 16  # of a small source, so that its work still spreads


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One source image and what it becomes: `key`.jpg and `key`.cls in a shard."""

    key: str
    label: int
    path: str
    size: int
    file: str | None = None  # the archive it is in; None: an object of its own, named `path`
    offset: int = 0  # in that archive


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """All that a task needs to make one shard; small enough to travel.

    `careful`: decode each picture in a child process, because a task died on this shard.
    """

    dataset: str
    source: str
    plan: str
    rule: ImageRule
    split: str
    number: int
    items: tuple[Item, ...]
    careful: bool = False

    @property
    def name(self) -> str:
        """The shard's name in the dataset."""
        return shard_name(self.split, self.number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Splits in order (`train`, then `val`), each cut into shards after a seeded permutation."""

    splits: dict[str, Listing]
    rule: ImageRule
    seed: int
    shard_samples: int

    @property
    def images(self) -> int:
        """All images of all splits."""
        return sum(len(listing) for listing in self.splits.values())

    def num_shards(self, split: str) -> int:
        """Shards of a split; only the last may be short."""
        return -(-len(self.splits[split]) // self.shard_samples)

    def shard_names(self) -> list[str]:
        """All shards in order."""
        return [
            shard_name(split, number)
            for split in self.splits
            for number in range(self.num_shards(split))
        ]

    def tasks(self, dataset: str, plan: str) -> Iterator[ShardTask]:
        """The tasks of all shards in order, made as they are asked for; `plan` is the digest."""
        for split, listing in self.splits.items():
            order = order_of(listing, self.seed, split)
            for number in range(self.num_shards(split)):
                start = number * self.shard_samples
                yield ShardTask(
                    dataset=dataset,
                    source=listing.uri,
                    plan=plan,
                    rule=self.rule,
                    split=split,
                    number=number,
                    items=tuple(
                        _item(listing, split, row)
                        for row in order[start : start + self.shard_samples].tolist()
                    ),
                )

    def record(self) -> dict[str, Any]:
        """What is written down and compared."""
        first = next(iter(self.splits.values()))
        return {
            "format": DATASET_FORMAT,
            "image rule": self.rule.record(),
            "decoder versions": decoders(),
            "seed": self.seed,
            "shard samples": self.shard_samples,
            "classes": sha256(to_json([entry.wnid for entry in first.classes])),
        } | {f"{split} images": listing.digest() for split, listing in self.splits.items()}


def _item(listing: Listing, split: str, row: int) -> Item:
    return Item(
        key=f"{split}-{row:08d}",
        label=int(listing.labels[row]),
        path=listing.path(row),
        size=int(listing.sizes[row]),
        file=listing.places[listing.groups[row]].file,
        offset=int(listing.offsets[row]),
    )


def shard_name(split: str, number: int) -> str:
    """`train/000000.tar`."""
    return f"{split}/{number:06d}.tar"


def shard_samples_for(images: int) -> int:
    """The default: 1024, fewer for a small source so that it makes about 16 shards, at least 32."""
    return min(SHARD_SAMPLES, max(32, -(-images // FEWEST_SHARDS)))


def permutation(count: int, seed: int, split: str) -> NDArray[np.int64]:
    """A permutation of `range(count)`: its ranks by a mixed 64-bit key of (seed, split, index).

    splitmix64's finalizer (Steele, Lea and Flood 2014), so the order hangs on no library's random
    stream. The key's low bits give way to the index, which then comes out of the sorted keys: an
    argsort would hold three arrays of this size at once, and 15 million images have to fit.
    """
    salt = np.uint64(int(sha256(f"{seed} {split}".encode())[:16], 16))
    low = np.uint64((1 << count.bit_length()) - 1)
    key = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        key *= np.uint64(0x9E3779B97F4A7C15)
        key += salt
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            for start in range(0, count, CHUNK):
                part = key[start : start + CHUNK]
                part ^= part >> np.uint64(shift)
                part *= np.uint64(factor)
    key &= ~low
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        key[start:stop] |= np.arange(start, stop, dtype=np.uint64)
    key.sort()
    key &= low
    return key.view(np.int64)


def order_of(listing: Listing, seed: int, split: str) -> NDArray[np.int64]:
    """The order of a split's images: a permutation of all, or of those in each window of groups."""
    order = permutation(len(listing), seed, split)
    if not listing.window:
        return order
    rank = np.argsort(permutation(len(listing.places), seed, f"{split} groups"))
    window = rank[listing.groups[order]] // listing.window
    return order[np.argsort(window, kind="stable")]


def claim(place: Place, plan: Plan) -> str:
    """Writes the plan's record into the dataset, or compares it with the one there; its digest.

    Raises `DataError` when the dataset was begun with another plan, naming what differs, and when
    the place holds something else.
    """
    record = plan.record()
    data = to_json(record)
    if place.size(RECORD) is None:
        other = next(iter(place.names()), None)
        if other is not None and not other.startswith("_commits/"):
            raise DataError(
                f"'{place.uri}' is not empty ('{other}') and holds no dataset; "
                f"choose a new place for the dataset."
            )
        place.create(RECORD, data)
    check_claim(place, record)
    return sha256(data)


def check_claim(place: Place, record: dict[str, Any]) -> None:
    """Raises `DataError` unless the record in the dataset is this one."""
    found, _ = read_json(place, RECORD, "a dataset in the making")
    differing = sorted(
        name for name in found.keys() | record.keys() if found.get(name) != record.get(name)
    )
    if differing:
        raise DataError(
            f"'{place.uri}' was begun with other {' and '.join(differing)}; "
            f"give the options and the source of that run, or a new place for the dataset."
        )
