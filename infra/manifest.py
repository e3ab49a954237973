"""The one JSON form and the manifests that stages hand each other.

Canonical JSON (sorted keys, two-space indent, newline at the end, no NaN) so that equal content has
equal bytes and therefore an equal digest. A manifest is written last: its presence means complete,
and readers believe only what its digests confirm.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from infra.errors import DamageError, DataError
from infra.storage import Place

DATASET_FORMAT = 1
MEMBER_FORMAT = 1
ENSEMBLE_FORMAT = 1


def to_json(value: Any) -> bytes:
    """Canonical JSON bytes of plain values or (nested) dataclasses; `ValueError` on NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return (
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    ).encode()


def sha256(data: bytes) -> str:
    """Hex sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def read_json(place: Place, name: str, what: str) -> tuple[Any, str]:
    """The parsed object and its sha256. `what` names the expected thing in the `DataError`."""
    if place.size(name) is None:
        raise DataError(f"'{place.uri}' is not {what}: it has no {name}.")
    data = place.read(name)
    try:
        return json.loads(data), sha256(data)
    except (ValueError, RecursionError) as error:
        raise DamageError(
            f"{name} in '{place.uri}' is not readable JSON ({error}); it is damaged."
        ) from None


def read_checked(place: Place, name: str, digest: str) -> bytes:
    """The object's bytes; `DamageError` unless their sha256 is `digest`, also when read again."""
    for _ in range(2):
        data = place.read(name)
        if (found := sha256(data)) == digest:
            return data
    raise DamageError(
        f"'{name}' in '{place.uri}' is damaged: its sha256 is {found[:12]}..., "
        f"the manifest says {digest[:12]}...."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassName:
    """One class: `label` (0-based), `wnid` (or the folder's name), `words` for people."""

    label: int
    wnid: str
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar: its name in the dataset (`train/000000.tar`), samples, bytes and sha256."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """`train` or `val`: samples kept, images rejected, and the shards in order."""

    samples: int
    rejects: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetManifest:
    """`dataset.json`. `image` and `decoders` are free-form records of how pixels came to be."""

    image: dict[str, Any]
    seed: int
    decoders: dict[str, str]
    classes: tuple[ClassName, ...]
    splits: dict[str, Split]
    index_sha256: str
    stats_sha256: str
    format: int = DATASET_FORMAT

    @classmethod
    def read(cls, place: Place) -> tuple[Self, str]:
        """The manifest of the dataset at `place` and its digest (the dataset's identity).

        Raises `DataError` when there is no complete dataset, `DamageError` when the file is harmed.
        """
        raw, digest = read_json(place, "dataset.json", "a complete dataset")
        if not isinstance(raw, dict) or raw.get("format") != DATASET_FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else None
            raise DataError(
                f"'{place.uri}' has dataset format {found}; this version reads {DATASET_FORMAT}."
            )
        try:
            raw["classes"] = tuple(ClassName(**entry) for entry in raw["classes"])
            raw["splits"] = {
                name: Split(
                    samples=split["samples"],
                    rejects=split["rejects"],
                    shards=tuple(Shard(**shard) for shard in split["shards"]),
                )
                for name, split in raw["splits"].items()
            }
            return cls(**raw), digest
        except (KeyError, TypeError, AttributeError) as error:
            raise DamageError(
                f"dataset.json in '{place.uri}' lacks or misnames a field: {error}."
            ) from None
