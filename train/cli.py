"""`septet train` and `septet describe`: the command line of this stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from train.job import Job
    from train.member import Member
    from train.sight import Observer


@click.command(
    epilog="Example: septet train photos-dataset runs/first --recipe paper --seed 1",
)
@click.argument("dataset")
@click.argument("run")
@click.option("--recipe", "recipe_name", required=True, help="A recipe's name or a .toml file.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Replace one value.")
@click.option("--replicas", type=click.IntRange(1), default=1, help="Copies that share a batch.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where it is.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Which member of the ensemble.")
@click.option("--init", metavar="MEMBER", help="Start from this member's layers but the last.")
@click.option("--address", help="A Ray cluster's address; else RAY_ADDRESS, else a local Ray.")
@click.option("--local", is_flag=True, help="Train in this process, without Ray.")
@click.option("--checkpoint-minutes", type=click.FloatRange(0), default=10.0, show_default=True)
@click.option("--print-recipe", is_flag=True, help="Print the resolved recipe and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
def train(dataset: str, run: str, **options: Any) -> None:
    """Train one member on DATASET into the folder RUN; run it again to continue it.

    DATASET and RUN are paths or s3:// URIs. A stopped run goes on from its last checkpoint, to the
    same weights; a finished one is left as it is.
    """
    from infra.manifest import DatasetManifest
    from infra.recipes import load_recipe
    from infra.storage import open_place
    from train.job import Job

    recipe = load_recipe(options["recipe_name"], options["overrides"])
    if options["print_recipe"]:
        click.echo(json.dumps(recipe.to_dict(), indent=2))
        return
    DatasetManifest.read(open_place(dataset))  # said now, before seconds of imports
    job = Job(
        dataset=dataset,
        run=run,
        recipe=recipe,
        seed=options["seed"],
        replicas=options["replicas"],
        device=options["device"] or _default_device(),
        checkpoint_s=60 * options["checkpoint_minutes"],
        init=options["init"],
    )
    with _watched(job) as observer:
        member = _launch(job, observer, options)
    _tell(job, member, as_json=options["as_json"])


def _launch(job: Job, observer: Observer, options: dict[str, Any]) -> Member:
    if options["local"]:
        from train.local import train_here

        return train_here(job, observer)
    from infra.cluster import connect
    from train.launch import train_on_ray

    connect(options["address"])
    return train_on_ray(job, observer)


def _default_device() -> Literal["cpu", "cuda"]:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _watched(job: Job) -> Iterator[Observer]:
    """Rows and a progress line on stderr; Ctrl-C and SIGTERM ask the run to stop."""
    from infra.progress import Progress
    from train.interrupt import stop_on_signals
    from train.sight import HEADER, Observer, line, position

    epochs, batch = job.recipe.schedule.epochs, job.recipe.optimizer.batch
    bar: list[Progress] = []
    errors = ""

    def record(row: dict[str, Any]) -> None:
        nonlocal errors
        if not errors:
            click.echo(HEADER, err=True)
        top1, top5 = (100 * row[name] for name in ("top1_error", "top5_error"))
        errors = f", errors {top1:.1f} % and {top5:.1f} %"
        click.echo(line(f"seed {job.seed}", row, epochs), err=True)

    def tick(done: int, total: int) -> None:
        if not bar:
            bar.append(Progress("train", total, "images", already=done).__enter__())
        stands = position(done, total, epochs=epochs, batch=batch)
        bar[0].advance(done - bar[0].done, stands + errors)

    def warn(text: str) -> None:
        click.echo(f"septet: {text}", err=True)

    with stop_on_signals() as stop:
        try:
            yield Observer(record=record, tick=tick, warn=warn, stop=stop)
        finally:
            for shown in bar:
                shown.__exit__(None, None, None)


def _tell(job: Job, member: Member, *, as_json: bool) -> None:
    if as_json:
        result = {"run": job.run, "seed": member.seed, "weights_sha256": member.weights_sha256}
        click.echo(json.dumps({**result, **member.metrics}, sort_keys=True))
        return
    error = 100 * member.metrics["top1_error"]
    click.echo(f"'{job.run}' is finished: top-1 error {error:.2f} % after {member.seconds:,.0f} s.")


@click.command(epilog="Example: septet describe source2012")
@click.argument("recipe_name", metavar="RECIPE")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Replace one value.")
@click.option("--classes", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def describe(recipe_name: str, overrides: tuple[str, ...], classes: int, as_json: bool) -> None:
    """Print RECIPE's network as the paper's table does, and how it departs from the paper."""
    from infra.recipes import load_recipe
    from train import describe as description

    recipe = load_recipe(recipe_name, overrides)
    if not as_json:
        click.echo("\n".join(description.describe(recipe, classes)))
        return
    departures = description.departures(recipe)
    result = {
        "recipe": recipe.name,
        "layers": description.layer_rows(recipe, classes),
        "totals": description.totals(recipe, classes),
        "departures": {key: {"paper": was, "recipe": now} for key, was, now in departures},
    }
    click.echo(json.dumps(result))


COMMANDS: list[click.Command] = [train, describe]
