"""The whole path on a made miniature of ILSVRC, on this machine alone.

It calls exactly what the commands call: preprocessing and training as Ray tasks, a real MLflow
(a SQLite file in the demo's folder), the registry, the report, `pull` and `predict`. Running it
again continues or, when all is done, just says what there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ensemble import registry
from ensemble.build import Trained, train_ensemble
from ensemble.miniature import SHAPES, write_class
from ensemble.model import load_model
from ensemble.pictures import pictures
from ensemble.plan import EnsemblePlan
from ensemble.predict import Prediction, predict
from infra import cluster
from infra.errors import RunError
from infra.progress import Progress, duration
from infra.recipes import load_recipe
from infra.storage import open_place
from infra.tracking import Tracking
from pipeline import run as pipeline

NUM_TRAIN, NUM_VAL = 100, 40  # pictures a class; x 12 classes = 1,200 and 480
NAME, ALIAS = "septet-demo", "champion"
SHOWN = ("arrow", "key", "tree")  # classes of the pictures that are predicted at the end
Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """What the demo made, and where; errors are shares of the validation pictures."""

    folder: Path
    report: Path
    pulled: Path
    tracking: str
    members_top1_error: tuple[float, ...]
    top1_error: float
    seconds: float


def run(
    folder: Path, show: Show, stop: Callable[[], bool] = lambda: False, members: int = 7
) -> Demo:
    """Pictures, shards, members, average, registry, pull, prediction: each step says what it does.

    Raises `RunError` when a member failed, `KeyboardInterrupt` when asked to stop.
    """
    started = time.monotonic()
    folder = folder.absolute()
    cluster.connect()
    show(f"1/5 drawing a miniature ILSVRC: {len(SHAPES)} classes of made pictures")
    _draw(folder / "pictures")
    show("2/5 preprocess: 256x256 shards, exact statistics, index, manifest")
    _preprocess(folder)
    show(f"3/5 ensemble: {members} AlexNets in two halves, averaged, reported")
    tracking = Tracking(f"sqlite:///{folder}/mlflow.db")
    trained = _train(folder, members, tracking, show, stop)
    show(f"4/5 register {NAME}@{ALIAS} in MLflow, and pull it back, digests checked")
    version = registry.register(open_place(folder / "ensemble"), trained.run, NAME, ALIAS)
    trained.run.finish(ok=True)
    registry.pull(f"models:/{NAME}@{ALIAS}", str(folder / "pulled"), tracking)
    show(f"5/5 predict with what was pulled ({version.uri})")
    for found in _predict(folder):
        show(_sentence(found))
    parts = trained.ensemble.members
    return Demo(
        folder=folder,
        report=folder / "ensemble" / "report" / "index.html",
        pulled=folder / "pulled",
        tracking=tracking.uri,
        members_top1_error=tuple(part.score.top1_error for part in parts),
        top1_error=trained.ensemble.score.top1_error,
        seconds=time.monotonic() - started,
    )


def closing(demo: Demo) -> str:
    """What was made and where to look, in a few lines."""
    alone = demo.members_top1_error
    mean = sum(alone) / len(alone)
    return "\n".join(
        (
            f"{len(alone)} members err on {100 * mean:.1f} % on average "
            f"({100 * min(alone):.1f} to {100 * max(alone):.1f} %); "
            f"averaged they err on {100 * demo.top1_error:.1f} %. ({duration(demo.seconds)})",
            "",
            f"report     {demo.report}",
            f"dataset    {demo.folder / 'dataset'}",
            f"ensemble   {demo.pulled}  (pulled from MLflow)",
            f"MLflow     mlflow ui --backend-store-uri {demo.tracking}",
            f"predict    septet predict {demo.pulled} YOUR-PICTURE.jpg",
        )
    )


def _draw(folder: Path) -> None:
    jobs = [
        (name, split, count)
        for name in SHAPES
        for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL))
    ]

    def write(job: tuple[str, str, int]) -> int:
        name, split, count = job
        return write_class(folder, name, split, count=count)

    with Progress("draw", len(SHAPES) * (NUM_TRAIN + NUM_VAL), "pictures") as progress:
        for job, result in cluster.map_unordered(write, jobs, in_flight=cluster.cores()):
            if isinstance(result, Exception):
                raise RunError(f"the pictures of '{job[0]}' could not be drawn: {result}.")
            progress.advance(job[2])


def _preprocess(folder: Path) -> None:
    job = pipeline.Job(
        source=str(folder / "pictures" / "train"),
        val=str(folder / "pictures" / "val"),
        dataset=str(folder / "dataset"),
    )
    pipeline.preprocess(job, pipeline.on_ray(None, None))


def _train(
    folder: Path, members: int, tracking: Tracking, show: Show, stop: Callable[[], bool]
) -> Trained:
    plan = EnsemblePlan(
        dataset=str(folder / "dataset"),
        out=str(folder / "ensemble"),
        recipe=load_recipe("demo"),
        members=members,
    )
    trained = train_ensemble(plan, tracking, show=show, stop=stop)
    if failed := trained.ensemble.failed:
        raise RunError(f"member {failed[0].number} failed: {failed[0].reason}")
    return trained


def _predict(folder: Path) -> list[Prediction]:
    sources = [str(folder / f"pictures/val/{name}/{name}_00000.JPEG") for name in SHOWN]
    model = load_model(open_place(folder / "pulled"))
    return list(predict(model, pictures(sources), top=3))


def _sentence(found: Prediction) -> str:
    guesses = ", ".join(f"{guess.words} {100 * guess.probability:.0f} %" for guess in found.guesses)
    return f"    {Path(found.name).name}: {guesses or found.reason}"
