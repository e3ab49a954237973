"""What a recipe is, in words and rows: the paper's table of layers, and how it departs from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.recipes import Recipe, load_recipe
from train.table import Row, layer_table

HEADER = ("layer", "kernel", "stride", "output", "reads", "then", "parameters", "multiply-adds")


def layer_rows(recipe: Recipe, num_classes: int = 1000) -> list[dict[str, Any]]:
    """One plain record a learned layer; raises `ConfigError` as `layer_table` does."""
    return [
        {
            "layer": row.name,
            "kernel": _kernel(row),
            "stride": row.layer.stride,
            "output": _output(row),
            "reads": _reads(row, recipe),
            "then": list(row.layer.after),
            "halves": row.halves,
            "parameters": row.parameters,
            "multiply_adds": row.multiply_adds,
            "neurons": row.neurons,
        }
        for row in layer_table(recipe, num_classes)
    ]


def totals(recipe: Recipe, num_classes: int = 1000) -> dict[str, int]:
    """Sums over the layers: parameters, multiply_adds, neurons."""
    rows = layer_table(recipe, num_classes)
    return {
        "parameters": sum(row.parameters for row in rows),
        "multiply_adds": sum(row.multiply_adds for row in rows),
        "neurons": sum(row.neurons for row in rows),
    }


def departures(recipe: Recipe) -> list[tuple[str, Any, Any]]:
    """(key, the paper's value, the recipe's) of all that differs from the paper's recipe.

    A value that the other recipe lacks (a layer, say) is None.
    """
    paper, own = (dict(_values(r.to_dict())) for r in (load_recipe("paper"), recipe))
    told = [key for key in own | paper if key not in ("name", "summary")]
    return [(key, paper.get(key), own.get(key)) for key in told if paper.get(key) != own.get(key)]


def describe(recipe: Recipe, num_classes: int = 1000) -> list[str]:
    """The lines of `septet describe`: the table, its totals, and the departures from the paper."""
    cells = [HEADER, *(_cells(row) for row in layer_rows(recipe, num_classes))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if column >= len(HEADER) - 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    found = totals(recipe, num_classes)
    lines.append(
        f"in all {found['parameters']:,} parameters, {found['multiply_adds'] / 1e6:,.1f} M "
        f"multiply-adds an image, {found['neurons']:,} neurons"
    )
    rows = departures(recipe)
    if not rows:
        return [
            f"{recipe.name}: {recipe.summary}",
            "",
            *lines,
            "",
            "The paper's values throughout.",
        ]
    width = max(len(key) for key, _, _ in rows)
    changes = [f"  {key.ljust(width)}  {_text(was)} -> {_text(now)}" for key, was, now in rows]
    title = f"{recipe.name}: {recipe.summary}"
    return [title, "", *lines, "", "Departs from the paper (paper -> recipe):", *changes]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["layer"],
        row["kernel"],
        str(row["stride"]) if row["kernel"] != "full" else "",
        row["output"],
        row["reads"],
        " ".join(row["then"]),
        f"{row['parameters']:,}",
        f"{row['multiply_adds']:,}",
    )


def _kernel(row: Row) -> str:
    if row.layer.kind == "fc":
        return "full"
    return f"{row.layer.size}x{row.layer.size}x{row.reads}"


def _output(row: Row) -> str:
    if row.layer.kind == "fc":
        return f"{row.kernels}"
    return f"{row.output_px}x{row.output_px}x{row.kernels}"


def _reads(row: Row, recipe: Recipe) -> str:
    if recipe.network.halves == 1:
        return "all"
    if row.name == next(iter(recipe.layers)):
        return "image"
    return "both halves" if row.layer.sees == "both" or row.halves == 1 else "own half"


def _values(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _values(value, f"{prefix}{key}.")
        elif value != {}:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "nothing"
    return str(value)
