"""`ensemble.json`: what an ensemble is made of, and the digest of every file that belongs to it.

It is written last, so its presence means complete. Readers take nothing that it does not name, and
nothing whose bytes differ from what it says; only `report/index.html`, which anybody can rebuild
from the rest, stands outside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError, DamageError, DataError
from infra.manifest import ENSEMBLE_FORMAT, ClassName, read_checked, read_json
from infra.recipes import Recipe, from_dict
from infra.storage import Place
from train.evaluate import Score

NAME = "ensemble.json"
PAGE = "report/index.html"
EXAMPLES = "report/examples.json"
MEMBER_FILES = ("member.json", "weights.safetensors", "stats.npz", "metrics.jsonl")
_ALLOWED = re.compile(
    r"members/[1-9][0-9]{0,3}/(member\.json|weights\.safetensors|stats\.npz|metrics\.jsonl)"
    r"|report/examples\.json"
)
LARGE = 1 << 24  # bytes of a file that is checked where it is loaded instead of beforehand


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file: its bytes and sha256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One member: it lies in `members/NUMBER`; `weight` is its share in the average."""

    number: int
    seed: int
    weight: float
    score: Score  # of this member alone

    @property
    def folder(self) -> str:
        """Where it lies in the ensemble's folder."""
        return f"members/{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A member that was planned and is not in the ensemble, and why."""

    number: int
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """`ensemble.json`. `averaged[k - 1]` is the score of the first k members averaged.

    `dataset` has uri, sha256 and, for each split, samples and rejects; scores are exact counts over
    its val split with `views` views a picture.
    """

    classes: tuple[ClassName, ...]
    image: dict[str, Any]
    dataset: dict[str, Any]
    recipe: Recipe
    views: int
    planned: int
    members: tuple[Part, ...]
    averaged: tuple[Score, ...]
    failed: tuple[Failure, ...]
    code: dict[str, Any]
    libraries: dict[str, str]
    finished: str  # UTC, ISO 8601
    files: dict[str, File]
    format: int = ENSEMBLE_FORMAT

    @property
    def score(self) -> Score:
        """Of the whole ensemble."""
        return self.averaged[-1]


def read_ensemble(place: Place) -> tuple[Ensemble, str]:
    """The ensemble at `place` and the digest of its `ensemble.json`.

    Raises `DataError` when there is none, `DamageError` when the file is harmed or names a file
    that does not belong into an ensemble.
    """
    raw, digest = read_json(place, NAME, "a complete ensemble")
    if not isinstance(raw, dict) or raw.get("format") != ENSEMBLE_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise DataError(
            f"'{place.uri}' has ensemble format {found}; this version reads {ENSEMBLE_FORMAT}."
        )
    try:
        ensemble = _parse(raw)
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DamageError(f"{NAME} in '{place.uri}' lacks or misnames a field: {error}.") from None
    _demand_consistent(ensemble, place)
    return ensemble, digest


def check_files(place: Place, ensemble: Ensemble, *, small_only: bool = False) -> None:
    """Compares every file with its digest; raises `DamageError` or `DataError` naming the first.

    With `small_only`, files of 16 MiB and more are left to whoever loads them.
    """
    for name, file in ensemble.files.items():
        size = place.size(name)
        if size is None:
            raise DamageError(f"'{place.uri}' is incomplete: '{name}' is missing.")
        if size != file.bytes:
            raise DamageError(
                f"'{name}' in '{place.uri}' is damaged: it has {size:,} bytes, "
                f"{NAME} says {file.bytes:,}."
            )
        if not (small_only and file.bytes >= LARGE):
            read_checked(place, name, file.sha256)


def _parse(raw: dict[str, Any]) -> Ensemble:
    return Ensemble(
        **{
            **raw,
            "classes": tuple(ClassName(**entry) for entry in raw["classes"]),
            "recipe": from_dict(raw["recipe"]),
            "members": tuple(
                Part(**{**entry, "score": Score(**entry["score"])}) for entry in raw["members"]
            ),
            "averaged": tuple(Score(**entry) for entry in raw["averaged"]),
            "failed": tuple(Failure(**entry) for entry in raw["failed"]),
            "files": {name: File(**entry) for name, entry in raw["files"].items()},
        }
    )


def _demand_consistent(ensemble: Ensemble, place: Place) -> None:
    where = f"{NAME} in '{place.uri}'"
    for name in ensemble.files:
        if not _ALLOWED.fullmatch(name):
            raise DamageError(f"{where} names '{name}', which does not belong into an ensemble.")
    if not ensemble.members or len(ensemble.averaged) != len(ensemble.members):
        raise DamageError(f"{where} has no members, or not a score for each number of them.")
    needed = [f"{part.folder}/{file}" for part in ensemble.members for file in MEMBER_FILES]
    for name in (*needed, EXAMPLES):
        if name not in ensemble.files:
            raise DamageError(f"{where} does not name '{name}'.")
    if set(ensemble.files) - {*needed, EXAMPLES}:
        raise DamageError(f"{where} names files of members that it does not have.")
