"""`report/index.html`: one self-contained page, made from the ensemble's folder alone.

No dataset, no MLflow and no network are needed, to make it or to read it; equal folders give equal
pages. The figures are those of `ensemble.json`.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from safetensors.numpy import load

from ensemble.average import interval
from ensemble.examples import Example, read_examples
from ensemble.manifest import EXAMPLES, PAGE, Ensemble, read_ensemble
from ensemble.plots import colour_share, curves_chart, kernel_pictures, size_chart
from infra.errors import DamageError
from infra.manifest import read_checked
from infra.progress import duration
from infra.storage import Place
from train.member import Member, read_member
from train.sight import Row
from train.table import layer_table

TEMPLATES = Path(__file__).parent / "templates"
WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
# ILSVRC-2012 validation, per cent (Krizhevsky, Sutskever and Hinton 2012, Table 2)
PAPER = (("one network", 40.7, 18.2), ("seven networks averaged*", 36.7, 15.4))


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """All that the page is made of, as it lies in the ensemble's folder."""

    ensemble: Ensemble
    sha256: str
    members: tuple[Member, ...]
    curves: tuple[tuple[Row, ...], ...]
    examples: tuple[Example, ...]
    kernels: NDArray[np.float32]  # of member 1's first layer (K, 3, size, size)


def write_report(place: Place) -> str:
    """Makes the page of the ensemble at `place`; returns its name there.

    Raises `DataError` when there is no complete ensemble, `DamageError` when a file of it is not
    what its digest says.
    """
    place.write(PAGE, render(read_folder(place)).encode())
    return PAGE


def read_folder(place: Place) -> Folder:
    """Reads and checks what the page needs."""
    made, digest = read_ensemble(place)

    def read(name: str) -> bytes:
        return read_checked(place, name, made.files[name].sha256)

    members = []
    for part in made.members:
        read(f"{part.folder}/member.json")
        members.append(read_member(place.child(part.folder)))
    first = next(iter(made.recipe.layers))
    weights = load(read(f"{made.members[0].folder}/weights.safetensors"))
    return Folder(
        ensemble=made,
        sha256=digest,
        members=tuple(members),
        curves=tuple(_rows(read(f"{part.folder}/metrics.jsonl")) for part in made.members),
        examples=tuple(read_examples(read(EXAMPLES))),
        kernels=weights[f"{first}.weight"],
    )


def render(folder: Folder) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "duration": duration}
    made = folder.ensemble
    return environment.get_template("report.html").render(
        ensemble=made,
        sha256=folder.sha256,
        count=WORDS[len(made.members)] if len(made.members) < len(WORDS) else len(made.members),
        interval=[100 * bound for bound in interval(made.score.top1_wrong, made.score.samples)],
        alone={name: _spread(made, name) for name in ("top1_error", "top5_error", "mean_loss")},
        rows=list(zip(made.members, folder.members, strict=True)),
        paper=PAPER,
        charts=_charts(folder),
        kernels=_kernels(folder),
        examples=[_example(made, example) for example in folder.examples],
        layers=layer_table(made.recipe, len(made.classes)),
        settings=_settings(made),
    )


def _rows(data: bytes) -> tuple[Row, ...]:
    try:
        rows = tuple(json.loads(text) for text in data.splitlines())
    except ValueError as error:
        raise DamageError(f"metrics.jsonl is damaged: {error}.") from None
    return rows


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _spread(made: Ensemble, name: str) -> tuple[float, float]:
    """Mean and sample standard deviation over the members alone."""
    values = [getattr(part.score, name) for part in made.members]
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _charts(folder: Folder) -> dict[str, Markup]:
    losses = {"train_loss": "training", "val_loss": "validation"}
    charts = {
        "size": size_chart(folder.ensemble.averaged),
        "loss": curves_chart("loss", folder.curves, losses),
        "error": curves_chart("error", folder.curves, {"top1_error": "mean"}),
    }
    return {name: Markup(svg) for name, svg in charts.items()}  # ours, not the folder's text


def _kernels(folder: Folder) -> list[dict[str, Any]]:
    halves = folder.ensemble.recipe.network.halves
    parts = np.array_split(folder.kernels, halves)
    pictures = kernel_pictures(folder.kernels, halves)
    return [
        {
            "name": f"half {'ab'[index]}" if halves == 2 else "the layer",
            "count": len(part),
            "png": base64.b64encode(picture).decode(),
            "colour": colour_share(part),
        }
        for index, (part, picture) in enumerate(zip(parts, pictures, strict=True))
    ]


def _example(made: Ensemble, example: Example) -> dict[str, Any]:
    def words(label: int) -> str:
        return made.classes[label].words.split(",")[0]

    return {
        "jpeg": base64.b64encode(example.jpeg).decode(),
        "key": example.key,
        "words": words(example.label),
        "guesses": [
            {"words": words(label), "share": share, "right": label == example.label}
            for label, share in example.guesses
        ],
    }


def _settings(made: Ensemble) -> dict[str, dict[str, Any]]:
    """The recipe's tables besides its layers."""
    recipe = made.recipe
    tables = ("network", "norm", "augment", "optimizer", "schedule", "compute")
    return {name: asdict(getattr(recipe, name)) for name in tables}
