"""Proves a dataset complete and unharmed, or names every missing, altered, cut-off or extra thing.

The ordinary check reads manifest, index, statistics and the list of files: what a copy that went
wrong shows. The deep one also reads every shard: its digest, and each row of the index against the
bytes it points at.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import DamageError, SeptetError
from infra.manifest import DatasetManifest, Shard, read_checked, sha256
from infra.progress import Progress
from infra.storage import Place
from pipeline.interop import TIMM_INFO, dali_index, dali_name, timm_info
from pipeline.publish import INDEX, MANIFEST, SCHEMA, STATS
from pipeline.tar import BLOCK


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
    sizes = dict(place.entries())
    problems = [
        *_files(sizes, shards),
        *_info(place, manifest),
        *_statistics(place, manifest),
    ]
    index = SCHEMA.empty_table()
    try:
        index = _index(place, manifest)
        problems += _counts(manifest, index)
    except (SeptetError, pa.ArrowException) as error:
        problems.append(f"{INDEX}: {error}")
    if deep:
        problems += _deep(place, shards, index, sizes.keys())
    return Report(
        dataset=place.uri,
        sha256=digest,
        deep=deep,
        samples=sum(split.samples for split in manifest.splits.values()),
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        problems=tuple(problems),
    )


def _files(sizes: dict[str, int], shards: list[Shard]) -> Iterator[str]:
    """Missing, cut-off and extra files, by the listing alone."""
    for shard in shards:
        size = sizes.get(shard.name)
        if size is None:
            yield f"{shard.name}: missing"
        elif size != shard.bytes:
            yield f"{shard.name}: {size:,} bytes instead of {shard.bytes:,}"
    indexes = {dali_name(shard.name) for shard in shards}
    if indexes & sizes.keys():
        yield from (f"{name}: missing" for name in sorted(indexes - sizes.keys()))
    known = {MANIFEST, INDEX, STATS, TIMM_INFO, *indexes, *(shard.name for shard in shards)}
    for name in sorted(sizes.keys() - known):
        if not name.startswith("_commits/"):
            yield f"{name}: no part of the dataset"


def _info(place: Place, manifest: DatasetManifest) -> Iterator[str]:
    """What timm believes; a dataset of before it was written is whole without."""
    if place.size(TIMM_INFO) is not None and place.read(TIMM_INFO) != timm_info(manifest.splits):
        yield f"{TIMM_INFO}: not what the manifest says"


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


def _index(place: Place, manifest: DatasetManifest) -> pa.Table:
    """The index, in columns; raises `DamageError` or an Arrow error for a harmed one."""
    data = read_checked(place, INDEX, manifest.index_sha256)
    file = pq.ParquetFile(pa.BufferReader(data))
    if file.schema_arrow != SCHEMA:
        raise DamageError("its columns are not those of an index.")
    columns = ["key", "label", "shard", "offset", "size", "crc32"]
    # Arrow's threads may let go of Python's bytes when the process is ending, and then abort it
    return file.read(columns=columns, use_threads=False)


def _counts(manifest: DatasetManifest, index: pa.Table) -> Iterator[str]:
    """Every kept sample has one row, every reject too, no key comes twice."""
    found = {
        entry["values"]: entry["counts"] for entry in index["shard"].value_counts().to_pylist()
    }
    for name, split in manifest.splits.items():
        for shard in split.shards:
            if found.get(shard.name, 0) != shard.samples:
                yield f"{INDEX}: not {shard.samples:,} rows for {shard.name}"
        if sum(shard.samples for shard in split.shards) != split.samples:
            yield f"{MANIFEST}: the shards of {name} do not add up to {split.samples:,} samples"
    twice = len(index) - pc.count_distinct(index["key"]).as_py()
    if twice:
        yield f"{INDEX}: {twice:,} keys come twice"
    total = sum(split.samples + split.rejects for split in manifest.splits.values())
    if len(index) != total:
        yield f"{INDEX}: {len(index):,} rows, the manifest says {total:,}"


def _deep(place: Place, shards: list[Shard], index: pa.Table, files: Set[str]) -> Iterator[str]:
    """Reads all shards, one in memory at a time."""
    total, rows = sum(shard.bytes for shard in shards), _by_shard(index)
    with Progress("verify", total >> 20, "MiB") as progress:
        read = 0
        for shard in shards:
            try:
                data = place.read(shard.name)
            except SeptetError:
                continue  # named as missing already
            if len(data) != shard.bytes:
                continue  # named as such, and its samples would fill the page
            if sha256(data) != shard.sha256:
                yield f"{shard.name}: altered, its sha256 is not the manifest's"
            if shard.name in rows:
                samples = rows[shard.name].to_pylist()
                yield from _samples(shard.name, data, samples)
                if dali_name(shard.name) in files:
                    yield from _dali(place, dali_name(shard.name), samples)
            before, read = read >> 20, read + len(data)
            progress.advance((read >> 20) - before)


def _by_shard(index: pa.Table) -> dict[str, pa.Table]:
    """The rows of each shard in their order there, cut out of the index sorted once."""
    ordered, at = index.sort_by([("shard", "ascending"), ("offset", "ascending")]), 0
    rows: dict[str, pa.Table] = {}
    for entry in ordered["shard"].value_counts().to_pylist():
        rows[entry["values"]] = ordered.slice(at, entry["counts"])
        at += entry["counts"]
    return rows


def _samples(name: str, data: bytes, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Each row's member lies where it says, bears its key and has its checksum."""
    for row in rows:
        start, end = row["offset"], row["offset"] + row["size"]
        member = data[start - BLOCK : start].partition(b"\0")[0]
        if zlib.crc32(data[start:end]) != row["crc32"] or member != f"{row['key']}.jpg".encode():
            yield f"{name}: sample {row['key']} is harmed"


def _dali(place: Place, name: str, samples: list[dict[str, Any]]) -> Iterator[str]:
    """DALI would read from wherever its index points."""
    words = ((row["key"], row["label"], row["offset"], row["size"]) for row in samples)
    if place.read(name) != dali_index(words):
        yield f"{name}: not what the index says"
