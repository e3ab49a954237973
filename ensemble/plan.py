"""What an ensemble is to be, and the folder that is claimed for it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Literal

from infra.errors import ConfigError, DamageError
from infra.manifest import DatasetManifest, read_json, to_json
from infra.recipes import Recipe
from infra.storage import open_place
from train.job import Job
from train.member import open_run

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsemblePlan:
    """`members` members of one recipe, with the seeds `seed`, `seed` + 1, ...

    `dataset` and `out` are paths or `s3://` URIs. `replicas`, `device`, `parallel` (members trained
    side by side; None = as many as the cluster has room for) and `views` (of the measured
    ensemble) may change when it is continued, and `members` too.
    """

    dataset: str
    out: str
    recipe: Recipe
    members: int = 7
    seed: int = 1  # of the first member
    replicas: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    parallel: int | None = None
    views: Literal[1, 10] = 1

    def __post_init__(self) -> None:
        for name, value in (("members", self.members), ("parallel", self.parallel or 1)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; allowed: 1 or more.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; allowed: 0 or more.")

    def job(self, number: int) -> Job:
        """What member `number` (1 = the first) is to be."""
        return Job(
            dataset=open_place(self.dataset).uri,  # workers have other working directories
            run=open_place(self.out).child(f"members/{number}").uri,
            recipe=self.recipe,
            seed=self.seed + number - 1,
            replicas=self.replicas,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claimed folder: its lasting `id`, the dataset, and which members are finished."""

    id: str
    dataset: DatasetManifest
    dataset_sha256: str
    finished: tuple[int, ...]
    missing: tuple[int, ...]


def claim(plan: EnsemblePlan) -> Claim:
    """Claims the plan's folder, or finds it claimed by an earlier run of the same plan.

    Raises `ConfigError` when the folder belongs to another recipe, dataset or seed, `DataError`
    when there is no complete dataset.
    """
    place = open_place(plan.out)
    dataset, digest = DatasetManifest.read(open_place(plan.dataset))
    numbers = range(1, plan.members + 1)
    done = {}
    for number in numbers:
        job = plan.job(number)
        done[number] = open_run(open_place(job.run), job, digest)
    if place.size(PLAN) is None:
        place.write(PLAN, to_json({"id": uuid.uuid4().hex}))
    raw, _ = read_json(place, PLAN, "an ensemble that was begun")
    if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
        raise DamageError(f"{PLAN} in '{place.uri}' is damaged: it has no id.")
    return Claim(
        id=raw["id"],
        dataset=dataset,
        dataset_sha256=digest,
        finished=tuple(number for number in numbers if done[number]),
        missing=tuple(number for number in numbers if not done[number]),
    )
