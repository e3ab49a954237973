"""Proves a dataset complete and unharmed, or names every missing, altered, cut-off or extra thing.

The ordinary check reads manifest, index, statistics and the list of files: what a copy that went
wrong shows. The deep one also reads every shard: its digest, and each row of the index against the
bytes it points at.
"""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DamageError, SeptetError
from infra.manifest import DatasetManifest, Shard, read_checked, sha256
from infra.progress import Progress
from infra.storage import Place
from pipeline.publish import INDEX, MANIFEST, SCHEMA, STATS
from pipeline.tar import BLOCK

OWN = ("_commits/", "_info.json")  # beside what the manifest names
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was looked at, and a sentence for everything that is wrong."""

    dataset: str
    sha256: str
    deep: bool
    samples: int
    shards: int
    bytes: int
    problems: tuple[str, ...]


def verify(place: Place, *, deep: bool) -> Report:
    """Checks the dataset; harm is reported, not raised.

    Raises `DataError` when there is no complete dataset, `DamageError` for an unreadable manifest.
    """
    manifest, digest = DatasetManifest.read(place)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    problems = [*_files(place, shards), *_statistics(place, manifest)]
    rows: dict[str, Rows] = {}
    try:
        rows = _index(place, manifest)
        problems += _counts(manifest, rows)
    except (SeptetError, pa.ArrowException) as error:
        problems.append(f"{INDEX}: {error}")
    if deep:
        problems += _deep(place, shards, rows)
    return Report(
        dataset=place.uri,
        sha256=digest,
        deep=deep,
        samples=sum(split.samples for split in manifest.splits.values()),
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        problems=tuple(problems),
    )


def _files(place: Place, shards: list[Shard]) -> Iterator[str]:
    """Missing, cut-off and extra files, by the listing alone."""
    sizes = dict(place.entries())
    for shard in shards:
        size = sizes.pop(shard.name, None)
        if size is None:
            yield f"{shard.name}: missing"
        elif size != shard.bytes:
            yield f"{shard.name}: {size:,} bytes instead of {shard.bytes:,}"
    for name in sizes.keys() - {MANIFEST, INDEX, STATS}:
        if not name.startswith(OWN) and not name.endswith(".idx"):
            yield f"{name}: no part of the dataset"


def _statistics(place: Place, manifest: DatasetManifest) -> Iterator[str]:
    try:
        data = read_checked(place, STATS, manifest.stats_sha256)
        with np.load(io.BytesIO(data), allow_pickle=False) as stats:
            count = int(stats["count"])
    except SeptetError as error:
        yield f"{STATS}: {error}"
        return
    if count != manifest.splits["train"].samples:
        yield f"{STATS}: of {count:,} images, the train split has another number"


def _index(place: Place, manifest: DatasetManifest) -> dict[str, Rows]:
    """The kept rows by shard; raises `DamageError` or an Arrow error for a harmed index."""
    data = read_checked(place, INDEX, manifest.index_sha256)
    file = pq.ParquetFile(io.BytesIO(data))
    if file.schema_arrow != SCHEMA:
        raise DamageError("its columns are not those of an index.")
    rows: dict[str, Rows] = defaultdict(list)
    for batch in file.iter_batches(columns=["key", "label", "shard", "offset", "size", "crc32"]):
        for row in batch.to_pylist():
            rows[row["shard"]].append(row)
    return rows


def _counts(manifest: DatasetManifest, rows: dict[str, Rows]) -> Iterator[str]:
    """Every kept sample has one row, every reject too, no key comes twice."""
    for name, split in manifest.splits.items():
        for shard in split.shards:
            if len(rows.get(shard.name, ())) != shard.samples:
                yield f"{INDEX}: not {shard.samples:,} rows for {shard.name}"
        if sum(shard.samples for shard in split.shards) != split.samples:
            yield f"{MANIFEST}: the shards of {name} do not add up to {split.samples:,} samples"
    keys = [row["key"] for group in rows.values() for row in group]
    if len(set(keys)) != len(keys):
        yield f"{INDEX}: {len(keys) - len(set(keys)):,} keys come twice"
    total = sum(split.samples + split.rejects for split in manifest.splits.values())
    if len(keys) != total:
        yield f"{INDEX}: {len(keys):,} rows, the manifest says {total:,}"


def _deep(place: Place, shards: list[Shard], rows: dict[str, Rows]) -> Iterator[str]:
    """Reads all shards, one in memory at a time."""
    total = sum(shard.bytes for shard in shards)
    with Progress("verify", total >> 20, "MiB") as progress:
        read = 0
        for shard in shards:
            try:
                data = place.read(shard.name)
            except SeptetError:
                continue  # named as missing already
            if sha256(data) != shard.sha256:
                yield f"{shard.name}: altered, its sha256 is not the manifest's"
            yield from _samples(shard.name, data, rows.get(shard.name, []))
            before, read = read >> 20, read + len(data)
            progress.advance((read >> 20) - before)


def _samples(name: str, data: bytes, rows: Rows) -> Iterator[str]:
    """Each row's member lies where it says, bears its key and has its checksum."""
    for row in rows:
        start, end = row["offset"], row["offset"] + row["size"]
        member = data[start - BLOCK : start].partition(b"\0")[0]
        if zlib.crc32(data[start:end]) != row["crc32"] or member != f"{row['key']}.jpg".encode():
            yield f"{name}: sample {row['key']} is harmed"
