"""The order of samples: each once, a pure function, the same for any replicas and any start."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train.order import Order
from train.replica import Replica

SHARDS = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)
ORDERS = st.builds(
    Order,
    shard_sizes=SHARDS,
    batch=st.integers(1, 50),
    seed=st.integers(0, 2**40),
    window=st.integers(1, 5),
)


@given(ORDERS, st.integers(0, 100))
def test_an_epoch_has_each_sample_once(order: Order, epoch: int) -> None:
    """Nothing lost, nothing repeated."""
    assert sorted(order.epoch(epoch)) == list(range(order.samples))


@given(ORDERS, st.integers(0, 3), st.data())
def test_batches_from_any_step_are_the_rest_of_the_epoch(
    order: Order, epoch: int, data: st.DataObject
) -> None:
    """One integer resumes in the middle of an epoch; all batches are full but the last."""
    whole = list(order.batches(epoch * order.steps))
    assert np.array_equal(np.concatenate(whole), order.epoch(epoch))
    assert all(len(ids) == order.batch for ids in whole[:-1]) and len(whole) == order.steps
    done = data.draw(st.integers(0, order.steps - 1))
    rest = list(order.batches(epoch * order.steps + done))
    assert len(rest) == order.steps - done
    assert all(np.array_equal(a, b) for a, b in zip(rest, whole[done:], strict=True))


@given(ORDERS, st.integers(0, 3))
def test_samples_mix_only_inside_a_window_of_shards(order: Order, epoch: int) -> None:
    """Reading stays within `window` shards at a time, which come in this epoch's order."""
    starts = np.cumsum((0, *order.shard_sizes))
    shard_of = np.searchsorted(starts, order.epoch(epoch), side="right") - 1
    shards, position = order.shards(epoch), 0
    assert sorted(shards) == list(range(len(order.shard_sizes)))
    for first in range(0, len(shards), order.window):
        inside = shards[first : first + order.window]
        size = sum(order.shard_sizes[shard] for shard in inside)
        assert set(shard_of[position : position + size]) == set(inside.tolist())
        position += size


@given(st.integers(0, 300), st.integers(1, 9))
def test_replicas_take_disjoint_equal_parts(size: int, count: int) -> None:
    """Parts cover a batch in order and differ by at most one sample."""
    parts = [list(range(size))[Replica(rank=r, count=count).part(size)] for r in range(count)]
    assert sum(parts, []) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    """The order depends on seed and epoch, and on nothing else; these are its first ids."""
    order = Order(shard_sizes=(50, 50, 50, 50), batch=32, seed=1)
    same = Order(shard_sizes=(50, 50, 50, 50), batch=8, seed=1)
    other = Order(shard_sizes=(50, 50, 50, 50), batch=32, seed=2)
    assert np.array_equal(order.epoch(3), same.epoch(3))
    assert not np.array_equal(order.epoch(3), order.epoch(4))
    assert not np.array_equal(order.epoch(3), other.epoch(3))
