"""The pipeline's commands."""

from __future__ import annotations

import dataclasses
from typing import Any

import click


@click.command()
@click.argument("source")
@click.argument("dataset")
@click.option("--val", metavar="SOURCE", help="Source of the val split [SOURCE's own, if any].")
@click.option(
    "--format", metavar="NAME", help="folders, class-tars, ilsvrc, kaggle, webdataset, parquet."
)
@click.option(
    "--label-order",
    type=click.Choice(["wnid", "ilsvrc"]),
    default="wnid",
    show_default=True,
    help="Labels by sorted wnid (as torchvision, Caffe), or as in the devkit of ILSVRC.",
)
@click.option("--allow-shortfall", is_flag=True, help="Accept an ILSVRC-2012 that is not whole.")
@click.option("--shard-samples", type=int, metavar="N", help="Images a shard [at most 1024].")
@click.option("--quality", type=int, default=90, show_default=True, help="JPEG quality, 1-100.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of images.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Cores to use [all].")
@click.option(
    "--on-bad",
    type=click.Choice(["skip", "fail"]),
    default="skip",
    show_default=True,
    help="A bad image is counted and left out, or ends the run.",
)
@click.option(
    "--max-bad",
    type=float,
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Share of bad images, of all, above which the run fails.",
)
@click.option("--dali-index", is_flag=True, help="Also an .idx for DALI beside each shard.")
@click.option("--address", metavar="ADDRESS", help="Ray cluster [RAY_ADDRESS, else a local one].")
@click.option("--json", "as_json", is_flag=True, help="Last line as JSON.")
def preprocess(*, workers: int | None, address: str | None, as_json: bool, **options: Any) -> None:
    """Make a dataset of 256x256 JPEGs in tar shards from labelled images.

    SOURCE is recognised: a folder of class folders or of class tars, ILSVRC-2012 as downloaded,
    Kaggle's layout of it, WebDataset tars, Parquet with image bytes. DATASET is where the result
    goes. Both are local paths or s3:// URIs. Running it again finishes what is missing and changes
    nothing that is there.

    Example: septet preprocess photos/train dataset --val photos/val
    """
    from pipeline.run import Job, on_ray
    from pipeline.run import preprocess as run
    from pipeline.sources import SourceRules

    rules = SourceRules(
        **{name: options.pop(name) for name in ("format", "label_order", "allow_shortfall")}
    )
    summary = run(Job(rules=rules, **options), on_ray(workers, address))
    if as_json:
        click.echo(_json_line(summary))
        return
    click.echo(_sentence(summary))


def _sentence(summary: Any) -> str:
    """`train 1,200 images in 16 shards, val 360 images in 5 shards; 3 rejected (...)`."""
    splits = ", ".join(
        f"{name} {split['samples']:,} images in {split['shards']:,} shards"
        for name, split in summary.splits.items()
    )
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(summary.rejects.items()))
    rejected = f"; {sum(summary.rejects.values()):,} rejected ({reasons})" if reasons else ""
    made = (
        f"{summary.made_images:,} images in {summary.seconds:.1f} s"
        if summary.made_images
        else "nothing was missing"
    )
    return (
        f"dataset {summary.dataset}: {summary.classes:,} classes, {splits}{rejected} ({made}); "
        f"sha256 {summary.sha256[:12]}"
    )


@click.command()
@click.argument("dataset")
@click.option("--deep", is_flag=True, help="Also read every shard and check every sample.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON, on one line.")
def verify(dataset: str, *, deep: bool, as_json: bool) -> None:
    """Prove DATASET complete and unharmed, or name what is not; exit code 1 then.

    Example: septet verify dataset --deep
    """
    from infra.errors import DamageError
    from infra.storage import open_place
    from pipeline.verify import verify as run

    report = run(open_place(dataset), deep=deep)
    if as_json:
        click.echo(_json_line(report))
    else:
        for problem in report.problems:
            click.echo(problem)
    if report.problems:
        ways = "one way" if len(report.problems) == 1 else f"{len(report.problems):,} ways"
        raise DamageError(
            f"'{report.dataset}' is harmed in {ways}; delete the named files "
            f"and run septet preprocess again, which makes them anew."
        )
    if not as_json:
        how = "every byte read" if deep else "shards by size; --deep reads them"
        click.echo(
            f"dataset {report.dataset}: whole, {report.samples:,} samples in {report.shards:,} "
            f"shards ({how}); sha256 {report.sha256[:12]}"
        )


@click.command()
@click.argument("source")
@click.option("--val", metavar="SOURCE", help="Source of the val split [SOURCE's own, if any].")
@click.option("--shard-samples", type=int, metavar="N", help="Images a shard [at most 1024].")
@click.option("--format", metavar="NAME", help="As for preprocess.")
@click.option("--allow-shortfall", is_flag=True, help="As for preprocess.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON, on one line.")
def plan(source: str, *, as_json: bool, **options: Any) -> None:
    """Say what preprocessing SOURCE would cost, before anything starts.

    Only names and sizes are read. Storage and core-hours are estimates.

    Example: septet plan photos/train --val photos/val
    """
    from infra.storage import open_place
    from pipeline.cost import cost
    from pipeline.run import Job, make_plan
    from pipeline.sources import SourceRules

    rules = SourceRules(**{name: options.pop(name) for name in ("format", "allow_shortfall")})
    figures = cost(open_place(source), make_plan(Job(source=source, rules=rules, **options)))
    if as_json:
        click.echo(_json_line(figures))
        return
    images = ", ".join(f"{split} {count:,} images" for split, count in figures.images.items())
    click.echo(f"source   {figures.source}: {figures.classes:,} classes, {images}")
    click.echo(
        f"to read  {figures.source_bytes / 1e9:,.2f} GB in {figures.read_requests:,} requests"
    )
    click.echo(
        f"to write about {figures.stored_bytes / 1e9:,.2f} GB in {figures.shards:,} shards, "
        f"{figures.write_requests:,} requests"
    )
    click.echo(f"work     about {figures.core_hours:,.2f} core-hours")
    if figures.too_large:
        click.echo(f"refused  {figures.too_large:,} files larger than 64 MiB")


def _json_line(value: Any) -> str:
    """A dataclass as JSON on one line."""
    import json

    return json.dumps(dataclasses.asdict(value), sort_keys=True)


COMMANDS: list[click.Command] = [plan, preprocess, verify]
