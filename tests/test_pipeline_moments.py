"""Statistics: exact, the same for any grouping, and what numpy says in one pass."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commits import _pack, _unpack
from pipeline.moments import Moments, eigen, stats_npz
from pipeline.sums import FLUSH, Sums

DRAW = np.random.default_rng(0)
IMAGES = [DRAW.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(5)]
IMAGES.append(np.full((256, 256, 3), 255, np.uint8))  # the largest sums there can be


def moments_of(images: list[np.ndarray]) -> Moments:
    """As a shard's task does it."""
    sums = Sums()
    for image in images:
        sums.add(image)
    return sums.moments()


def test_sums_are_the_integers() -> None:
    """Against plain int64 arithmetic, to the last unit."""
    got = moments_of(IMAGES)
    exact = np.stack(IMAGES).astype(np.int64)
    flat = exact.reshape(-1, 3)
    assert got.count == 6
    assert np.array_equal(got.pixel_sum, exact.sum(0))
    assert np.array_equal(got.rgb_sum, flat.sum(0))
    assert np.array_equal(got.rgb_outer, flat.T @ flat)


@pytest.mark.parametrize("count", [FLUSH - 1, FLUSH, FLUSH + 1, 2 * FLUSH])
def test_nothing_overflows(count: int) -> None:
    """White pictures are the largest sums there can be, before and after the small ones empty."""
    got = moments_of([np.full((256, 256, 3), 255, np.uint8)] * count)
    assert np.array_equal(got.pixel_sum, np.full((256, 256, 3), 255 * count))
    assert np.array_equal(got.rgb_outer, np.full((3, 3), 255**2 * 65_536 * count))


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6), st.integers(0, 6))
def test_any_grouping_and_order_gives_the_same_bytes(order: list[int], a: int, b: int) -> None:
    """Cut into three shards anywhere, in any order, merged in any order."""
    cuts = [0, *sorted((a, b)), 6]
    parts = [moments_of([IMAGES[i] for i in order[x:y]]) for x, y in itertools.pairwise(cuts)]
    merged = parts[2].merge(parts[0].merge(parts[1])).merge(Moments.zero())
    assert stats_npz(merged) == stats_npz(moments_of(IMAGES))


def test_what_follows_from_the_sums() -> None:
    """Mean, deviation, covariance, eigenvectors: numpy in float64 agrees."""
    flat = np.stack(IMAGES).reshape(-1, 3).astype(np.float64)
    with np.load(io.BytesIO(stats_npz(moments_of(IMAGES)))) as stats:
        assert stats["count"] == 6
        assert np.allclose(stats["rgb_mean"], flat.mean(0), rtol=1e-12)
        assert np.allclose(stats["rgb_std"], flat.std(0), rtol=1e-12)
        covariance = np.cov(flat.T, bias=True)
        assert np.allclose(stats["rgb_covariance"], covariance, rtol=1e-10)
        assert stats["mean_image"].dtype == np.float32
        assert np.allclose(stats["mean_image"], np.stack(IMAGES).mean(0), rtol=1e-6)
        values, vectors = stats["eigenvalues"], stats["eigenvectors"]
        assert (np.diff(values) <= 0).all()
        assert np.allclose(values, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-9)
        assert np.allclose(covariance @ vectors, vectors * values, atol=1e-6)
        assert np.allclose(vectors.T @ vectors, np.eye(3), atol=1e-12)
        assert (vectors[np.abs(vectors).argmax(0), range(3)] > 0).all()


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((3, 3)), np.diag([1.0, 3.0, 2.0]), np.ones((3, 3)), np.diag([2.0, 2.0, 2.0])],
)
def test_eigenvectors_of_awkward_matrices(matrix: np.ndarray) -> None:
    """Zero, diagonal, of rank one, with equal values."""
    values, vectors = (np.array(part) for part in eigen(matrix.tolist()))
    assert np.allclose(matrix @ vectors.T, vectors.T * values, atol=1e-12)
    assert np.allclose(vectors @ vectors.T, np.eye(3), atol=1e-12)


def test_a_commit_keeps_them_exactly() -> None:
    """Packed for the record and unpacked again."""
    before = moments_of(IMAGES)
    after = _unpack(_pack(before))
    assert after.count == before.count
    assert np.array_equal(after.pixel_sum, before.pixel_sum)
    assert np.array_equal(after.rgb_outer, before.rgb_outer)
