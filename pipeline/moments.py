"""Exact statistics of the 256x256 pixels, as a monoid: integers that add up in any order.

`Moments` holds integer sums, so any sharding, grouping and order of the same images gives the same
bits. Mean image, covariance and its eigenvectors (the paper, section 4.1: PCA on the RGB values of
the training set) follow from the sums once, at the end, by correctly rounded arithmetic that no
processor's BLAS can bend.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.rule import SIDE

PIXELS = SIDE * SIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Sums over images; the zero of `merge` is `Moments.zero()`.

    `count` images; `pixel_sum` (256, 256, 3) int64; `rgb_outer` (3, 3) int64, the sum over all
    pixels of x x^T. int64 holds two thousand million images.
    """

    count: int
    pixel_sum: NDArray[np.int64]
    rgb_outer: NDArray[np.int64]

    @classmethod
    def zero(cls) -> Moments:
        """The moments of no image."""
        return cls(
            count=0,
            pixel_sum=np.zeros((SIDE, SIDE, 3), np.int64),
            rgb_outer=np.zeros((3, 3), np.int64),
        )

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of images together."""
        return Moments(
            count=self.count + other.count,
            pixel_sum=self.pixel_sum + other.pixel_sum,
            rgb_outer=self.rgb_outer + other.rgb_outer,
        )

    @property
    def rgb_sum(self) -> NDArray[np.int64]:
        """(3,) int64, the sum over all pixels."""
        total: NDArray[np.int64] = self.pixel_sum.sum(axis=(0, 1))
        return total


def stats_npz(moments: Moments) -> bytes:
    """The bytes of `stats.npz`; equal moments give equal bytes. Needs at least one image."""
    total = moments.count * PIXELS
    sums = [int(value) for value in moments.rgb_sum]
    covariance = _covariance(sums, moments.rgb_outer, total)
    values, vectors = eigen(covariance)
    arrays = {
        "count": np.int64(moments.count),
        "rgb_sum": moments.rgb_sum,
        "rgb_outer": moments.rgb_outer,
        "mean_image": (moments.pixel_sum / moments.count).astype(np.float32),
        "rgb_mean": np.array([value / total for value in sums]),
        "rgb_std": np.array([math.sqrt(covariance[i][i]) for i in range(3)]),
        "rgb_covariance": np.array(covariance),
        "eigenvalues": np.array(values),
        "eigenvectors": np.array(vectors).T,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.asarray(array), version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data.getvalue())  # stamped 1980
    return file.getvalue()


def _covariance(sums: list[int], outer: NDArray[np.int64], total: int) -> list[list[float]]:
    """Population covariance (divided by n), each entry the exact rational rounded once."""
    return [
        [
            float(Fraction(int(outer[i, j]) * total - sums[i] * sums[j], total * total))
            for j in range(3)
        ]
        for i in range(3)
    ]


def eigen(matrix: list[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Eigenvalues, descending, and unit eigenvectors of a symmetric matrix, by Jacobi rotations.

    Each vector's largest component (the first of equals) is positive. Plain float arithmetic in a
    fixed order: the same bits on every machine, which LAPACK does not promise.
    """
    size = len(matrix)
    a = [row[:] for row in matrix]
    vectors = [[float(i == j) for j in range(size)] for i in range(size)]  # rows
    for _ in range(64):  # sweeps; a 3x3 converges in about five
        for p, q in itertools.combinations(range(size), 2):
            _rotate(a, vectors, p, q)
    order = sorted(range(size), key=lambda k: -a[k][k])
    for vector in vectors:
        if max(vector, key=abs) < 0:
            vector[:] = [-value for value in vector]
    return [a[k][k] for k in order], [vectors[k] for k in order]


def _rotate(a: list[list[float]], vectors: list[list[float]], p: int, q: int) -> None:
    """One Jacobi rotation that makes a[p][q] zero (Golub and Van Loan, section 8.5)."""
    if a[p][q] == 0:
        return
    tau = (a[q][q] - a[p][p]) / (2 * a[p][q])
    t = math.copysign(1.0, tau) / (abs(tau) + math.hypot(1.0, tau))
    c = 1 / math.hypot(1.0, t)
    s = t * c
    for row in a:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    for rows in (a, vectors):
        rows[p], rows[q] = (
            [c * x - s * y for x, y in zip(rows[p], rows[q], strict=True)],
            [s * x + c * y for x, y in zip(rows[p], rows[q], strict=True)],
        )
    a[p][q] = a[q][p] = 0.0
