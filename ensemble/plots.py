"""The report's drawings: charts as SVG that takes its colours from the page, kernels as PNG.

Equal figures give equal bytes: ids are salted, no date goes in. Text stays text, in the page's
font; colours are the page's CSS variables, so a chart follows its light or dark scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from ensemble.average import interval
from train.evaluate import Score
from train.sight import Row

INK, FAINT, GRID = "#010101", "#020202", "#030303"  # stand-ins, replaced by the page's variables
FIRST, SECOND, MEMBER = "#040404", "#050505", "#060606"
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--line)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    MEMBER: "var(--member)",
}
SIZE = (3.6, 2.9)  # inches: three in a row on a desk, one on a phone, with text of reading size
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "ytick.major.size": 0,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
}
COLUMNS = 8  # kernels in a row of their picture
CONTRAST = 99.5  # per cent of all weights lie within the range from black to white


def size_chart(averaged: Sequence[Score]) -> str:
    """Top-1 and top-5 error (%) of the first 1, 2, ... members averaged, with 95 % intervals."""

    def draw(axes: Axes) -> None:
        sizes = range(1, len(averaged) + 1)
        for name, colour, wrong in (
            ("top-1", FIRST, [score.top1_wrong for score in averaged]),
            ("top-5", SECOND, [score.top5_wrong for score in averaged]),
        ):
            bounds = [interval(w, s.samples) for w, s in zip(wrong, averaged, strict=True)]
            values = [100 * w / s.samples for w, s in zip(wrong, averaged, strict=True)]
            low, high = ([100 * pair[side] for pair in bounds] for side in (0, 1))
            axes.fill_between(sizes, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(sizes, values, color=colour, linewidth=2, marker="o", markersize=5)
            _label(axes, (sizes[-1], values[-1]), f"{name} {values[-1]:.1f} %", colour)
            if len(values) > 1:
                axes.annotate(
                    f"{values[0]:.1f} %",
                    (1, values[0]),
                    xytext=(0, 8),
                    textcoords="offset points",
                    color=colour,
                )
        axes.set_xlabel("members averaged")
        axes.set_ylabel("error, %")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0.7, 0.7 + (len(averaged) - 0.4) * 1.45)
        axes.set_xticks(list(sizes))

    return _svg("size", draw)


def curves_chart(name: str, curves: Sequence[Sequence[Row]], keys: dict[str, str]) -> str:
    """A thin line a member and a bold one for their mean, by epoch, of each key (its label)."""
    scale = 100.0 if name == "error" else 1.0

    epochs = min(len(rows) for rows in curves)
    means = {
        key: [scale * float(np.mean([rows[at][key] for rows in curves])) for at in range(epochs)]
        for key in keys
    }

    def draw(axes: Axes) -> None:
        top = max(means, key=lambda key: means[key][-1])
        for (key, mean), colour in zip(means.items(), (FIRST, SECOND), strict=False):
            for rows in curves:
                values = [scale * row[key] for row in rows]
                thin = MEMBER if len(keys) == 1 else colour
                axes.plot(range(1, len(rows) + 1), values, color=thin, linewidth=0.8, alpha=0.55)
            axes.plot(range(1, epochs + 1), mean, color=colour, linewidth=2)
            aside = 0 if len(keys) == 1 else 4 if key == top else -4  # labels keep apart
            _label(axes, (epochs, mean[-1]), keys[key], colour, aside)
        axes.set_xlabel("epoch")
        axes.set_ylabel("error, %" if name == "error" else "loss")
        axes.set_ylim(bottom=0)
        axes.set_xlim(1 if epochs > 1 else 0.5, 1 + max(epochs - 1, 0.5) * 1.42)
        ticks = MaxNLocator(6, integer=True).tick_values(1, epochs)
        axes.set_xticks([1, *(tick for tick in ticks if 1 < tick <= epochs)])

    return _svg(name, draw)


def kernel_pictures(weights: NDArray[np.float32], halves: int) -> list[bytes]:
    """A PNG for each half of the first layer: its kernels (K, 3, size, size), eight in a row.

    One scale for all: mid grey is 0, and black and white the size that 99.5 % of weights stay
    within, so that faint kernels look faint (as in the paper's Figure 3).
    """
    reach = max(float(np.percentile(np.abs(weights), CONTRAST)), 1e-12)
    shown = np.clip(127.5 + 127.5 * weights / reach, 0, 255).round().astype(np.uint8)
    return [_grid(half) for half in np.array_split(shown, halves)]


def colour_share(weights: NDArray[np.float32]) -> float:
    """Share (0 to 1) of the kernels' energy that is colour, not grey: (K, 3, size, size)."""
    grey = weights.mean(1, keepdims=True)
    return float(((weights - grey) ** 2).sum() / max((weights**2).sum(), 1e-12))


def _grid(kernels: NDArray[np.uint8]) -> bytes:
    count, _, size, _ = kernels.shape
    rows, pitch = -(-count // COLUMNS), size + 1
    canvas = np.zeros((rows * pitch - 1, min(count, COLUMNS) * pitch - 1, 4), np.uint8)
    for index, kernel in enumerate(kernels):
        top, left = (pitch * at for at in divmod(index, COLUMNS))
        canvas[top : top + size, left : left + size, :3] = kernel.transpose(1, 2, 0)
        canvas[top : top + size, left : left + size, 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas, "RGBA").save(file, "PNG", optimize=True)
    return file.getvalue()


def _label(axes: Axes, at: tuple[float, float], text: str, colour: str, aside: float = 0) -> None:
    axes.annotate(
        text,
        at,
        xytext=(7, aside),
        textcoords="offset points",
        color=colour,
        va="center",
        fontweight="bold",
    )


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"septet {name}"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z0-9.]+_[0-9]+"', "", text)  # numbered in each chart: not unique here
    text = re.sub(r' width="[0-9.]+pt"| height="[0-9.]+pt"', "", text, count=2)
    text = re.sub(r"font: (bold )?[^;\"]*?([0-9.]+)px [^;\"]*", r"font: \1\2px var(--font)", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
