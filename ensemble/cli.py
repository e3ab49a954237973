"""The command line of this stage, and of what needs all of them: the demo and the benches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ensemble.build import Trained
    from ensemble.plan import EnsemblePlan
    from ensemble.predict import Prediction
    from ensemble.verdict import Verdict
    from infra.recipes import Recipe
    from infra.tracking import Version

VIEWS = click.Choice(["1", "10"])
DEVICE = click.Choice(["cpu", "cuda"])
BENCHES = ("preprocess", "step", "halves")
TRACKING = "MLflow's address; else MLFLOW_TRACKING_URI, else ./mlflow.db."


@click.command(
    name="ensemble",
    epilog="Example: septet ensemble photos-dataset seven --recipe paper --register photos",
)
@click.argument("dataset")
@click.argument("out")
@click.option("--recipe", "recipe_name", default="paper", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Replace one value.")
@click.option("--members", type=click.IntRange(1), default=7, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=1, help="Of the first member.")
@click.option("--device", type=DEVICE, help="Default: cuda where the cluster has it.")
@click.option("--replicas", type=click.IntRange(1), default=1, help="Copies that share a batch.")
@click.option("--parallel", type=click.IntRange(1), help="Members at once; default: what fits.")
@click.option("--views", type=VIEWS, default="1", help="Views of a picture when measuring.")
@click.option("--register", "name", help="Register the ensemble in MLflow under this name.")
@click.option("--alias", help="Point models:/NAME@ALIAS at it.")
@click.option("--tracking-uri", help=TRACKING)
@click.option("--address", help="A Ray cluster's address; else RAY_ADDRESS, else a local Ray.")
@click.option("--json", "as_json", is_flag=True, help="End with the result as a line of JSON.")
def ensemble_command(dataset: str, out: str, **options: Any) -> None:
    """Train the missing members on DATASET into the folder OUT, average, report, register.

    Run it again to continue: finished members are kept, begun ones go on, failed ones are tried
    again. When some members fail, the ensemble is made of the others; they are named, and the exit
    code is 1.
    """
    from infra.cluster import connect
    from infra.errors import InputError, RunError
    from infra.recipes import load_recipe
    from infra.tracking import Tracking
    from train.interrupt import stop_on_signals

    if options["alias"] and not options["name"]:
        raise InputError("--alias needs a name to belong to: give --register NAME too.")
    recipe = load_recipe(options["recipe_name"], options["overrides"])
    _demand_dataset(dataset)
    from ensemble.build import train_ensemble

    tracking = Tracking(options["tracking_uri"])
    connect(options["address"])
    plan = _plan(dataset, out, recipe, options)
    with stop_on_signals() as stop:
        trained = train_ensemble(plan, tracking, show=_say, stop=stop)
    version = _register(trained, plan, options["name"], options["alias"])
    _tell(trained, plan, version, as_json=options["as_json"])
    if trained.ensemble.failed:
        failed = ", ".join(str(failure.number) for failure in trained.ensemble.failed)
        raise RunError(
            f"member {failed} of '{out}' failed and is left out of the ensemble; "
            "run the same command again to try once more."
        )


@click.command(epilog="Example: septet evaluate seven photos-dataset --views 10 --per-class")
@click.argument("model")
@click.argument("dataset")
@click.option("--views", type=VIEWS, default="1", show_default=True, help="10: both.")
@click.option("--per-class", is_flag=True, help="A row a class too, the worst top-1 error first.")
@click.option("--device", type=DEVICE, default="cpu", show_default=True)
@click.option("--tracking-uri", help=TRACKING)
@click.option("--json", "as_json", is_flag=True, help="End with the result as a line of JSON.")
def evaluate(model: str, dataset: str, **options: Any) -> None:
    """Exact top-1 and top-5 error of MODEL on DATASET's validation split.

    MODEL is the folder of a member or an ensemble, or models:/NAME@ALIAS. With --views 10, the
    centre view's errors and those of the ten views averaged come from one pass; the rows of
    --per-class and the JSON line's figures are then the ten views', those under "centre" the
    centre's. Classes without pictures come last.
    """
    _demand_dataset(dataset)
    from ensemble.model import open_model
    from ensemble.score import score_model, val_samples
    from ensemble.verdict import class_rows
    from infra.storage import open_place

    views = int(options["views"])
    samples = val_samples(open_place(dataset))  # said now, before a model is fetched or loaded
    with open_model(model, options["device"], options["tracking_uri"]) as loaded:
        verdicts = score_model(loaded, samples, num_views=views)
    rows = class_rows(verdicts[views], loaded.classes) if options["per_class"] else []
    if not options["as_json"]:
        _show_verdicts(list(verdicts.values()), rows)
        return
    centre = {"centre": verdicts[1].values()} if views != 1 else {}
    classes = {"classes": rows} if options["per_class"] else {}
    _say_json(verdicts[views].values() | {"model": model, "views": views} | centre | classes)


@click.command(epilog="Example: septet predict models:/photos@champion holiday.jpg more/ --top 3")
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True)
@click.option("--views", type=VIEWS, default="1", show_default=True)
@click.option("--device", type=DEVICE, default="cpu", show_default=True)
@click.option("--tracking-uri", help=TRACKING)
@click.option(
    "--json", "as_json", is_flag=True, help="A line of JSON a picture, and one at the end."
)
def predict(model: str, images: tuple[str, ...], **options: Any) -> None:
    """The most probable labels of IMAGEs: files, folders or tars (streamed, never unpacked).

    MODEL is the folder of a member or an ensemble, or models:/NAME@ALIAS. A picture that cannot be
    read is named with its reason, and the rest are predicted.
    """
    from ensemble.pictures import demand_sources, pictures
    from infra.errors import DataError

    demand_sources(images)  # said now, before seconds of imports
    from ensemble.model import open_model
    from ensemble.predict import predict as predictions
    from pipeline.careful import decoder

    good = bad = 0
    with (
        open_model(model, options["device"], options["tracking_uri"]) as loaded,
        decoder(careful=True) as decode,
    ):
        for found in predictions(
            loaded,
            pictures(images),
            decode=decode,
            top=options["top"],
            num_views=int(options["views"]),
        ):
            good, bad = good + (not found.reason), bad + bool(found.reason)
            _show_prediction(found, as_json=options["as_json"])
    if options["as_json"]:
        _say_json({"predicted": good, "refused": bad})
    if not good:
        raise DataError(f"none of the {bad} pictures could be read.")


@click.command(epilog="Example: septet report seven")
@click.argument("out")
def report(out: str) -> None:
    """Make OUT/report/index.html again, from the files of the ensemble's folder alone."""
    from ensemble.report import write_report
    from infra.storage import open_place

    place = open_place(out)
    click.echo(f"{place.uri}/{write_report(place)}")


@click.command(epilog="Example: septet pull models:/photos@champion photos-ensemble")
@click.argument("model", metavar="models:/NAME@ALIAS")
@click.argument("folder", metavar="DIR")
@click.option("--tracking-uri", help=TRACKING)
def pull(model: str, folder: str, tracking_uri: str | None) -> None:
    """Fetch a registered ensemble into the folder DIR, and check every digest.

    DIR appears whole or not at all.
    """
    from ensemble.registry import pull as fetch
    from infra.storage import open_place
    from infra.tracking import Tracking

    made = fetch(model, folder, Tracking(tracking_uri))
    click.echo(
        f"{open_place(folder).uri}: {len(made.members)} members, {len(made.files)} files checked, "
        f"top-1 error {100 * made.score.top1_error:.2f} %"
    )


@click.command(epilog="Example: septet demo")
@click.argument("folder", default="septet-demo", type=click.Path(file_okay=False))
@click.option("--members", type=click.IntRange(1), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="End with the result as a line of JSON.")
def demo(folder: str, members: int, as_json: bool) -> None:
    """The whole path on a made miniature of ILSVRC, on this machine alone, into FOLDER.

    Draws pictures, preprocesses them, trains and averages seven members, registers the ensemble in
    MLflow, pulls it back and predicts with it. About eight minutes on two cores; run it again to
    continue, or to see what there is.
    """
    from dataclasses import asdict
    from pathlib import Path

    from ensemble.demo import closing, run
    from train.interrupt import stop_on_signals

    with stop_on_signals() as stop:
        made = run(Path(folder), _say, stop, members)
    if as_json:
        _say_json({name: str(v) if isinstance(v, Path) else v for name, v in asdict(made).items()})
        return
    click.echo(closing(made))


@click.command(epilog="Example: septet bench step --recipe photos --batch 32")
@click.argument("name", type=click.Choice([*BENCHES, "all"]))
@click.option(
    "--recipe", "recipe_name", default="paper", show_default=True, help="Of step, halves."
)
@click.option("--device", type=DEVICE, default="cpu", show_default=True, help="Of step, halves.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
def bench(name: str, recipe_name: str, device: str, batch: int, rounds: int) -> None:
    """Measure speed as ratios, side by side in one process; a line of JSON a bench.

    preprocess: one worker with everything included against the codec alone. step: a training step
    against torchvision's AlexNet. halves: the two halves against the same grouped network.
    """
    from dataclasses import asdict

    import torch

    from infra.recipes import load_recipe
    from pipeline.bench import bench_preprocess
    from train.bench import bench_halves, bench_step

    recipe, place = load_recipe(recipe_name), torch.device(device)
    for chosen in BENCHES if name == "all" else (name,):
        if chosen == "preprocess":
            found = asdict(bench_preprocess(rounds=rounds))
        else:
            act = bench_step if chosen == "step" else bench_halves
            found = act(recipe, (place, place), batch=batch, rounds=rounds)
            found["recipe"] = recipe.name
        _say_json({"bench": chosen} | found)


def _demand_dataset(dataset: str) -> None:
    """Says that there is none now: before seconds of imports, before anything is made."""
    from infra.manifest import DatasetManifest
    from infra.storage import open_place

    DatasetManifest.read(open_place(dataset))


def _plan(dataset: str, out: str, recipe: Recipe, options: dict[str, Any]) -> EnsemblePlan:
    from ensemble.members import has_gpus
    from ensemble.plan import EnsemblePlan

    return EnsemblePlan(
        dataset=dataset,
        out=out,
        recipe=recipe,
        members=options["members"],
        seed=options["seed"],
        replicas=options["replicas"],
        device=options["device"] or ("cuda" if has_gpus() else "cpu"),
        parallel=options["parallel"],
        views=10 if options["views"] == "10" else 1,
    )


def _register(
    trained: Trained, plan: EnsemblePlan, name: str | None, alias: str | None
) -> Version | None:
    """Registers when a name is given; closes the run in MLflow."""
    from ensemble.registry import register
    from infra.storage import open_place

    version = register(open_place(plan.out), trained.run, name, alias) if name else None
    trained.run.finish(ok=not trained.ensemble.failed)
    return version


def _tell(trained: Trained, plan: EnsemblePlan, version: Version | None, *, as_json: bool) -> None:
    from infra.storage import open_place

    out = open_place(plan.out).uri
    if as_json:
        registered = version.uri if version else None
        _say_json(trained.figures() | {"out": out, "registered": registered})
        return
    made = trained.ensemble
    alone = sum(part.score.top1_error for part in made.members) / len(made.members)
    click.echo(
        f"{len(made.members)} members averaged: top-1 error {100 * made.score.top1_error:.2f} %, "
        f"top-5 {100 * made.score.top5_error:.2f} % (one alone: {100 * alone:.2f} % on average)"
    )
    click.echo(f"report: {out}/report/index.html")
    if version:
        click.echo(f"registered: {version.uri} in {trained.run.tracking.uri}")


def _show_verdicts(verdicts: list[Verdict], rows: list[dict[str, Any]]) -> None:
    from ensemble.verdict import class_table, table

    click.echo(f"{verdicts[0].score.samples:,} pictures")
    for text in [*table(verdicts), *(["", *class_table(rows)] if rows else [])]:
        click.echo(text)


def _show_prediction(found: Prediction, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        _say_json(asdict(found))
    elif found.reason:
        _say(f"{found.name}: refused, {found.reason}")
    else:
        click.echo(found.name)
        for guess in found.guesses:
            click.echo(f"  {100 * guess.probability:5.1f} %  {guess.words}")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_json(values: dict[str, Any]) -> None:
    click.echo(json.dumps(values, sort_keys=True))


COMMANDS: list[click.Command] = [ensemble_command, evaluate, predict, report, pull, demo, bench]
