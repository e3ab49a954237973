"""The record of a finished shard: its digest, its rows of the index, its partial statistics.

Written after the shard itself, so a commit means that the shard is there. It is plain JSON with a
digest over its own content: a harmed or cut-off one counts as absent, and the shard is made again.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.errors import DataError
from infra.manifest import Shard, sha256
from infra.storage import Place
from pipeline.moments import Moments
from pipeline.rule import SIDE

OK = "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of `index.parquet`, but for `split` and `wnid`, which follow; None: never known."""

    key: str
    label: int
    source: str
    source_sha256: str | None
    width: int | None = None
    height: int | None = None
    offset: int | None = None
    size: int | None = None
    crc32: int | None = None
    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What a task tells the driver; the rest is in the commit."""

    shard: str
    images: int
    rejects: Counter[str]  # by reason
    first_reject: str  # path and reason; empty without one


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A finished shard. `moments` are the train split's; None elsewhere."""

    plan: str
    shard: Shard
    rows: tuple[Row, ...]
    moments: Moments | None

    def made(self) -> Made:
        """The short form."""
        bad = [row for row in self.rows if row.status != OK]
        return Made(
            shard=self.shard.name,
            images=len(self.rows),
            rejects=Counter(row.status for row in bad),
            first_reject=f"'{bad[0].source}' ({bad[0].status})" if bad else "",
        )


def commit_name(shard: str) -> str:
    """`train/000000.tar` -> `_commits/train/000000.json`."""
    return f"_commits/{shard.removesuffix('.tar')}.json"


def write_commit(place: Place, commit: Commit) -> None:
    """Publishes the record."""
    content: dict[str, Any] = {
        "plan": commit.plan,
        "shard": dataclasses.asdict(commit.shard),
        "rows": {name: [getattr(row, name) for row in commit.rows] for name in COLUMNS},
        "moments": _pack(commit.moments) if commit.moments else None,
    }
    data = _compact({"commit": content, "sha256": sha256(_compact(content))})
    place.write(commit_name(commit.shard.name), data)


def read_commit(place: Place, shard: str, plan: str) -> Commit | None:
    """The record of a shard under this plan; None when there is none, or a harmed one."""
    try:
        raw = json.loads(place.read(commit_name(shard)))
        content = raw["commit"]
        if sha256(_compact(content)) != raw["sha256"] or content["plan"] != plan:
            return None
    except (DataError, ValueError, KeyError, TypeError, RecursionError):
        return None
    columns = [content["rows"][name] for name in COLUMNS]
    return Commit(
        plan=plan,
        shard=Shard(**content["shard"]),
        rows=tuple(
            Row(**dict(zip(COLUMNS, values, strict=True))) for values in zip(*columns, strict=True)
        ),
        moments=_unpack(content["moments"]) if content["moments"] else None,
    )


def finished(place: Place, shards: list[str], plan: str) -> Iterator[Commit]:
    """The commits of those shards that are there, with a shard of the recorded size."""
    sizes = dict(place.entries())
    for name in shards:
        if commit_name(name) in sizes and name in sizes:
            commit = read_commit(place, name, plan)
            if commit and sizes[name] == commit.shard.bytes:
                yield commit


def _compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _pack(moments: Moments) -> dict[str, Any]:
    """Per-pixel sums as little-endian uint32, in byte planes (the high ones hardly vary)."""
    planes = moments.pixel_sum.astype("<u4").view(np.uint8).reshape(-1, 4).T
    return {
        "count": moments.count,
        "rgb_outer": moments.rgb_outer.tolist(),
        "pixel_sum": base64.b64encode(zlib.compress(planes.tobytes(), 1)).decode(),
    }


def _unpack(packed: dict[str, Any]) -> Moments:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["pixel_sum"])), np.uint8)
    sums = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4")
    return Moments(
        count=packed["count"],
        pixel_sum=sums.reshape(SIDE, SIDE, 3).astype(np.int64),
        rgb_outer=np.array(packed["rgb_outer"], np.int64),
    )
