"""Draws: published bits, the same in numpy and torch, on the distribution they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train import draws


def test_the_first_bits_are_splitmix64s() -> None:
    assert int(draws.bits(0)) == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0


def test_torch_and_numpy_draw_the_same_bits() -> None:
    keys = np.array([-5, 0, 1, 2**40, 2**63 - 1, -(2**63)])
    found = draws.tensor_bits(7, -1, torch.from_numpy(keys), 3).numpy().view(np.uint64)
    assert np.array_equal(found, draws.bits(7, -1, keys, 3))
    uniform = draws.tensor_uniform(7, -1, torch.from_numpy(keys), 3).numpy()
    assert np.array_equal(uniform, draws.uniform(7, -1, keys, 3))


def test_keys_broadcast() -> None:
    table = draws.bits(1, np.arange(4)[:, None], np.arange(3))
    assert table.shape == (4, 3)
    assert table[2, 1] == draws.bits(1, 2, 1)
    assert len(np.unique(table)) == 12


def test_order_and_number_of_keys_matter() -> None:
    found = {draws.key(*keys) for keys in [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (3,), (1,)]}
    assert len(found) == 6


def test_uniform_numbers_are_uniform_and_neighbours_are_independent() -> None:
    u = draws.uniform(9, np.arange(200_000))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 64, (0, 1))[0]
    expected = len(u) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 120  # chi-square of 63: p = 2e-5
    for other in (
        u[1:],
        draws.uniform(9, np.arange(200_000), 0)[1:],
        draws.uniform(10, np.arange(1, 200_000)),
    ):
        assert abs(np.corrcoef(u[:-1], other)[0, 1]) < 0.01


def test_below_reaches_every_number_equally() -> None:
    counts = np.bincount(draws.below(33, 5, np.arange(66_000)), minlength=33)
    assert len(counts) == 33
    assert abs(counts - 2000).max() < 250


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_normal_numbers_are_gaussian(kind: str) -> None:
    x = (
        draws.normal(4, np.arange(300_000))
        if kind == "numpy"
        else draws.tensor_normals(0, 300_000, 4).numpy()
    )
    assert np.isfinite(x).all()
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
    assert abs((np.abs(x) > 1.959964).mean() - 0.05) < 0.002


def test_normals_are_one_endless_row() -> None:
    row = draws.tensor_normals(0, 1000, 4, 2)
    for first, count in [(0, 3), (1, 4), (7, 1), (400, 600), (999, 1)]:
        assert torch.equal(draws.tensor_normals(first, count, 4, 2), row[first : first + count])
    assert not torch.equal(draws.tensor_normals(0, 1000, 4, 3), row)
