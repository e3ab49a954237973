"""What one member is to be: the request that every launcher takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.recipes import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One member: `dataset` and `run` are paths or `s3://` URIs.

    Recipe, dataset, seed and initial member are what a member is; replicas, device and the
    checkpoints' pace may change when a run is continued.
    """

    dataset: str
    run: str
    recipe: Recipe
    seed: int = 0
    replicas: int = 1  # copies of the two-half network that share each batch
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_s: float = 600.0  # seconds between checkpoints inside an epoch
    keep: int = 2  # newest checkpoints kept
    init: str | None = None  # a member's run folder, whose layers but the last this one starts from

    def __post_init__(self) -> None:
        for name, value, least in (("replicas", self.replicas, 1), ("keep", self.keep, 1)):
            if value < least:
                raise ValueError(f"{name} is {value!r}; allowed: {least} or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; allowed: 0 or more")
