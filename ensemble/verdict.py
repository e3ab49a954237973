"""How often a model is right from so many views a picture: in all and class by class.

The counts are whole numbers that add up, so parts of a split may be judged anywhere, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ensemble.average import add, figures, interval
from infra.manifest import ClassName
from train.evaluate import Score, class_counts, score

NAMES = {1: "centre view", 10: "ten views"}
TOPS = ("top1", "top5")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Counts from `views` views a picture.

    classes: (classes, 3) int64, of each class its pictures, and those wrong in the first guess and
    in all five; the sums over the classes are the counts of `score`.
    """

    views: int
    score: Score
    classes: NDArray[np.int64]

    def __add__(self, other: Verdict) -> Verdict:
        """The counts over the pictures of both, which were judged from as many views."""
        return Verdict(
            views=self.views,
            score=add(self.score, other.score),
            classes=self.classes + other.classes,
        )

    def values(self) -> dict[str, Any]:
        """All but the classes as plain values; errors and the bounds of their 95 % are 0 to 1."""
        whole = self.score
        return figures(whole) | {
            "top1_wrong": whole.top1_wrong,
            "top5_wrong": whole.top5_wrong,
            "top1_interval": interval(whole.top1_wrong, whole.samples),
            "top5_interval": interval(whole.top5_wrong, whole.samples),
        }


def judge(found: Tensor, labels: Tensor, views: int) -> Verdict:
    """Of averaged probabilities (N, classes) from so many views, and labels (N,) int64."""
    return Verdict(views=views, score=score(found, labels), classes=class_counts(found, labels))


def table(verdicts: Iterable[Verdict]) -> list[str]:
    """Lines for people: a header, then a line each, in per cent."""
    header = [f"top-{top} error (95 % interval)" for top in (1, 5)]
    lines = [f"{'':<11}  {header[0]:<30}  {header[1]}"]
    for verdict in verdicts:
        values = verdict.values()
        cells = [_with_interval(values[f"{top}_error"], values[f"{top}_interval"]) for top in TOPS]
        lines.append(f"{NAMES[verdict.views]:<11}  {cells[0]:<30}  {cells[1]}")
    return lines


def class_rows(verdict: Verdict, classes: Sequence[ClassName]) -> list[dict[str, Any]]:
    """Plain values of each class: the highest top-1 error first, then top-5, then by label.

    A class without pictures has errors None and comes last.
    """
    rows = [
        {
            "label": name.label,
            "wnid": name.wnid,
            "words": name.words,
            "samples": samples,
            "top1_wrong": top1,
            "top5_wrong": top5,
            "top1_error": top1 / samples if samples else None,
            "top5_error": top5 / samples if samples else None,
        }
        for name, (samples, top1, top5) in zip(classes, verdict.classes.tolist(), strict=True)
    ]
    return sorted(rows, key=_worst_first)


def class_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people: a header, then a class each, with counts and per cent."""
    width = max(len(row["wnid"]) for row in rows)
    lines = [
        f"label  {'wnid':<{width}}  pictures  {'top-1 wrong':>17}  {'top-5 wrong':>17}  words",
    ]
    for row in rows:
        cells = [f"{row[f'{top}_wrong']:>7,}  {_percent(row[f'{top}_error'])}" for top in TOPS]
        lines.append(
            f"{row['label']:>5}  {row['wnid']:<{width}}  {row['samples']:>8,}  "
            f"{cells[0]}  {cells[1]}  {row['words']}"
        )
    return lines


def _worst_first(row: dict[str, Any]) -> tuple[float, float, int]:
    top1, top5 = (-1.0 if row[f"{top}_error"] is None else row[f"{top}_error"] for top in TOPS)
    return -top1, -top5, row["label"]


def _percent(share: float | None) -> str:
    return f"{'-':>8}" if share is None else f"{100 * share:>6.2f} %"


def _with_interval(share: float, bounds: tuple[float, float]) -> str:
    low, high = (100 * bound for bound in bounds)
    return f"{_percent(share)} ({low:.2f} to {high:.2f} %)"
