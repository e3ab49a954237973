"""The pipeline's story: list, plan, make shards, publish.

`preprocess` is the entry point. Work spreads through `execute`, which is Ray unless a caller passes
another way to map a function over tasks.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from infra import cluster
from infra.errors import ConfigError, DataError, RunError, SeptetError
from infra.manifest import DatasetManifest, sha256, to_json
from infra.progress import Progress
from infra.storage import Place, open_place
from pipeline.commits import Made, finished
from pipeline.listing import same_classes
from pipeline.plan import Plan, ShardTask, claim, shard_samples_for
from pipeline.publish import publish, publish_dali
from pipeline.rule import ImageRule
from pipeline.sources import SourceRules, read_source

Outcome = tuple[ShardTask, Made | Exception]
Execute = Callable[[Iterable[ShardTask]], Iterator[Outcome]]
MAX_SHARD_SAMPLES = 65_536  # a shard is made in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a user asks for; places are paths or s3:// URIs.

    `shard_samples` None: chosen by the number of images. `max_bad`: the run fails when more than
    this share of all images is refused; `on_bad="fail"`: at the first one. `val` None: the source's
    own val split, where it has one. `dali_index`: an `.idx` for NVIDIA's DALI beside each shard.
    """

    source: str
    dataset: str = ""
    val: str | None = None
    shard_samples: int | None = None
    quality: int = 90
    seed: int = 0
    on_bad: Literal["skip", "fail"] = "skip"
    max_bad: float = 0.01
    dali_index: bool = False
    rules: SourceRules = SourceRules()

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("--shard-samples", self.shard_samples, 1, MAX_SHARD_SAMPLES),
            ("--quality", self.quality, 1, 100),
            ("--max-bad", self.max_bad, 0, 1),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must be from {low} to {high}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What was made, and the digest of its manifest: the dataset's identity."""

    dataset: str
    sha256: str
    classes: int
    splits: dict[str, dict[str, int]]  # samples, rejects, shards, bytes
    rejects: dict[str, int]  # by reason
    made_images: int  # by this run; the rest was there
    seconds: float
    images_per_s: float  # of this run


def preprocess(job: Job, execute: Execute) -> Summary:
    """Makes the dataset, or what is missing of it, and says what there is.

    Raises `DataError` when a source or the place cannot be used, `RunError` for too many bad images
    or a shard that cannot be made, `StorageError`.
    """
    started = time.monotonic()
    place = _apart(job)
    plan = make_plan(job)
    digest = claim(place, plan)
    there = {
        commit.shard.name: commit.made() for commit in finished(place, plan.shard_names(), digest)
    }
    tally = Tally(job, plan.images, there.values())
    missing = (task for task in plan.tasks(place.uri, digest) if task.name not in there)
    with Progress("preprocess", plan.images, "images", already=tally.images) as progress:
        for shard in make_all(missing, execute):
            tally.add(shard)
            progress.advance(shard.images, tally.note())
    manifest = publish(place, plan, digest)
    if job.dali_index:
        publish_dali(place, plan, digest)
    place.sweep()
    return _summary(place, manifest, tally, time.monotonic() - started)


def make_plan(job: Job) -> Plan:
    """Lists the sources and fixes order, shards and the image rule."""
    splits = read_source(open_place(job.source), job.rules)
    if job.val is not None:
        val = read_source(open_place(job.val), job.rules)
        splits["val"] = val.get("val", val["train"])
        same_classes(splits["train"], splits["val"])
    return Plan(
        splits=splits,
        rule=ImageRule(jpeg_quality=job.quality),
        seed=job.seed,
        shard_samples=job.shard_samples or shard_samples_for(len(splits["train"])),
    )


def _apart(job: Job) -> Place:
    """The dataset's place; raises `DataError` when it lies inside a source."""
    target = open_place(job.dataset)
    for uri in filter(None, (job.source, job.val)):
        if f"{target.uri}/".startswith(f"{open_place(uri).uri}/"):
            raise DataError(f"the dataset '{target.uri}' must not lie inside its source.")
    return target


def make_all(tasks: Iterable[ShardTask], execute: Execute) -> Iterator[Made]:
    """Makes all shards; those whose process died once more, with care."""
    died: list[ShardTask] = []
    for task, result in execute(tasks):
        if isinstance(result, cluster.TaskDied):
            died.append(dataclasses.replace(task, careful=True))
        else:
            yield _checked(task, result)
    for task, result in execute(died):
        yield _checked(task, result)


def _checked(task: ShardTask, result: Made | Exception) -> Made:
    if isinstance(result, Made):
        return result
    if isinstance(result, SeptetError):
        raise result
    raise RunError(f"shard {task.name} could not be made: {result!r}.") from result


def on_ray(workers: int | None, address: str | None) -> Execute:
    """Shards as Ray tasks on `workers` cores, all of the cluster's by default.

    A task is not retried by Ray: `make_all` does it, with care.
    """

    def execute(tasks: Iterable[ShardTask]) -> Iterator[Outcome]:
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return  # nothing is missing: no need to start Ray
        cluster.connect(address, workers)
        tasks = itertools.chain([first], tasks)
        yield from cluster.map_unordered(
            _make_shard, tasks, in_flight=workers or cluster.cores(), resources={"max_retries": 0}
        )

    return execute


def in_process(tasks: Iterable[ShardTask]) -> Iterator[Outcome]:
    """One shard after the other, here: for tests and benchmarks."""
    for task in tasks:
        yield task, _make_shard(task)


def _make_shard(task: ShardTask) -> Made:
    """Loads torch where shards are made, so that the driver starts and stays light without it."""
    from pipeline.shard import make_shard

    return make_shard(task)


class Tally:
    """Counts images and rejects, and stops the run by the job's rule."""

    def __init__(self, job: Job, total: int, there: Iterable[Made]) -> None:
        self.job, self.total = job, total
        self.images, self.rejects, self.new = 0, Counter[str](), 0
        for shard in there:
            self.add(shard)
        self.new = 0

    def add(self, shard: Made) -> None:
        """Counts a shard; raises `RunError` when its rejects are too many."""
        self.images += shard.images
        self.new += shard.images
        self.rejects += shard.rejects
        if shard.rejects and self.job.on_bad == "fail":
            raise RunError(f"bad image {shard.first_reject}; --on-bad skip would go on without it.")
        if self.rejects.total() > self.job.max_bad * self.total:
            raise RunError(
                f"{self.rejects.total():,} of {self.total:,} images are bad ({self.reasons()}; "
                f"one is {shard.first_reject}), more than --max-bad {self.job.max_bad:g} allows."
            )

    def reasons(self) -> str:
        """`3 corrupt, 1 empty`."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.most_common())

    def note(self) -> str:
        """What the progress bar shows beside the rate."""
        return f"{self.rejects.total():,} rejected" if self.rejects else ""


def _summary(place: Place, manifest: DatasetManifest, tally: Tally, seconds: float) -> Summary:
    splits: dict[str, dict[str, Any]] = {
        name: {
            "samples": split.samples,
            "rejects": split.rejects,
            "shards": len(split.shards),
            "bytes": sum(shard.bytes for shard in split.shards),
        }
        for name, split in manifest.splits.items()
    }
    return Summary(
        dataset=place.uri,
        sha256=sha256(to_json(manifest)),
        classes=len(manifest.classes),
        splits=splits,
        rejects=dict(tally.rejects),
        made_images=tally.new,
        seconds=round(seconds, 3),
        images_per_s=round(tally.new / max(seconds, 1e-9), 1),
    )
