"""What makes shards a dataset: index, statistics and, last of all, the manifest.

Everything is read from the commits in shard order, one at a time, so the result does not depend on
who finished when, and memory does not grow with the number of images (but for the rejects).
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError, RunError, StorageError
from infra.manifest import DatasetManifest, Shard, Split, sha256, to_json
from infra.storage import LocalPlace, Place
from pipeline.commits import OK, Commit, Row, read_commit
from pipeline.interop import TIMM_INFO, dali_index, dali_name, timm_info
from pipeline.moments import Moments, stats_npz
from pipeline.plan import Plan, check_claim, shard_name
from pipeline.rule import decoders

INDEX, STATS, MANIFEST = "index.parquet", "stats.npz", "dataset.json"
GROUP_ROWS = 4096  # rows of one row group of the index: 7 MB of Python values
BLOCK = 8 << 20  # bytes of the index in memory at once
SCHEMA = pa.schema(
    [
        *(("key", pa.string()), ("split", pa.string()), ("label", pa.int32())),
        *(("wnid", pa.string()), ("source", pa.string()), ("source_sha256", pa.string())),
        *(("width", pa.int32()), ("height", pa.int32()), ("shard", pa.string())),
        *(("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.int64())),
        ("status", pa.string()),
    ]
)


@dataclass(slots=True)
class _Total:
    """What is gathered while the commits go by."""

    moments: Moments = field(default_factory=Moments.zero)
    splits: dict[str, Split] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


def publish(place: Place, plan: Plan, digest: str) -> DatasetManifest:
    """Writes what is missing of index, statistics and manifest; the manifest.

    Raises `RunError` when no image of a split could be used, `DataError` when another run with
    another plan has come in between.
    """
    total = _Total()
    index_sha256 = _publish_index(place, _gather(place, plan, digest, total))
    stats_sha256 = _put(place, STATS, stats_npz(total.moments))
    manifest = DatasetManifest(
        image=plan.rule.record(),
        seed=plan.seed,
        decoders=decoders(),
        classes=plan.splits["train"].classes,
        splits=total.splits,
        index_sha256=index_sha256,
        stats_sha256=stats_sha256,
    )
    _put(place, TIMM_INFO, timm_info(total.splits))
    check_claim(place, plan.record())
    _put(place, MANIFEST, to_json(manifest))
    return manifest


def _publish_index(place: Place, rows: Iterable[dict[str, Any]]) -> str:
    """Writes the index unless it is there; its digest. It passes through a file, not memory."""
    with tempfile.TemporaryDirectory(prefix="septet-") as folder:
        index = Path(folder, INDEX)
        try:
            with pq.ParquetWriter(index, SCHEMA, compression="zstd") as writer:
                for group in _groups(rows):
                    writer.write_table(pa.Table.from_pylist(group, SCHEMA))
        except OSError as error:
            raise StorageError(
                f"cannot write the index to '{folder}' ({error}); "
                f"make room there, or let TMPDIR name another folder."
            ) from error
        size = index.stat().st_size
        local = LocalPlace(Path(folder))
        digest = _sha256_of(local, INDEX, size)
        if place.size(INDEX) != size or _sha256_of(place, INDEX, size) != digest:
            place.upload(INDEX, index)
    return digest


def _sha256_of(place: Place, name: str, size: int) -> str:
    """Of an object of that size, a block in memory at a time."""
    found = hashlib.sha256()
    for offset in range(0, size, BLOCK):
        found.update(place.read_range(name, offset, min(BLOCK, size - offset)))
    return found.hexdigest()


def publish_dali(place: Place, plan: Plan, digest: str) -> None:
    """Writes what is missing of DALI's indexes, one beside each shard."""
    for shard in plan.shard_names():
        rows = _commit(place, shard, digest).rows
        samples = ((r.key, r.label, r.offset or 0, r.size or 0) for r in rows if r.status == OK)
        _put(place, dali_name(shard), dali_index(samples))


def _gather(place: Place, plan: Plan, digest: str, total: _Total) -> Iterator[dict[str, Any]]:
    """The rows of the index in their order, adding up everything else on the way."""
    wnids = [entry.wnid for entry in plan.splits["train"].classes]
    for split in plan.splits:
        shards: list[Shard] = []
        rejects: list[Row] = []
        for number in range(plan.num_shards(split)):
            commit = _commit(place, shard_name(split, number), digest)
            shards.append(commit.shard)
            if commit.moments:
                total.moments = total.moments.merge(commit.moments)
            for row in commit.rows:
                if row.status == OK:
                    yield _record(row, split, wnids, commit.shard.name)
                else:
                    rejects.append(row)
        for row in sorted(rejects, key=lambda row: row.key):
            yield _record(row, split, wnids, None)
        samples = sum(shard.samples for shard in shards)
        if not samples:
            raise RunError(f"not one image of the {split} split could be used.")
        total.splits[split] = Split(samples=samples, rejects=len(rejects), shards=tuple(shards))


def _commit(place: Place, shard: str, digest: str) -> Commit:
    commit = read_commit(place, shard, digest)
    if commit is None:
        raise DataError(
            f"the record of {shard} in '{place.uri}' has gone, is harmed or is another run's; "
            f"make sure that one run writes there, and run again."
        )
    return commit


def _record(row: Row, split: str, wnids: list[str], shard: str | None) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"split": split, "wnid": wnids[row.label], "shard": shard}


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _put(place: Place, name: str, data: bytes) -> str:
    """Publishes unless the same bytes are there; their digest."""
    if place.size(name) != len(data) or place.read(name) != data:
        place.write(name, data)
    return sha256(data)
