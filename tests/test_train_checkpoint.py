"""Checkpoints: committed whole, believed only by their digests, the newest whole one used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import DamageError
from infra.storage import open_place
from train.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    newest_checkpoint,
    read_checkpoint,
    steps,
    write_checkpoint,
)
from train.tally import Tally


def checkpoint(step: int) -> Checkpoint:
    """A checkpoint whose content depends on its step."""
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(
        step=step,
        weights={"conv1.weight": torch.randn(4, 3, generator=generator)},
        velocities={"conv1.weight": torch.randn(4, 3, generator=generator)},
        history=({"epoch": 1, "step": step, "top1_error": 0.1 + step, "lr": 1e-3},),
        tally=Tally(images=step, loss=1 / 3, norms=[0.1, 2.5]),
        seconds=2.5,
    )


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """Equal to the bit."""
    tensors = [(a.weights, b.weights), (a.velocities, b.velocities)]
    return (a.step, a.history, a.tally, a.seconds) == (b.step, b.history, b.tally, b.seconds) and (
        all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in tensors)
    )


def flip(path: Path, position: int) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """To the bit, and an empty folder has none."""
    place = open_place(tmp_path)
    assert newest_checkpoint(place, pytest.fail) is None
    write_checkpoint(place, checkpoint(7), keep=2)
    found = newest_checkpoint(place, pytest.fail)
    assert found is not None and same(found, checkpoint(7))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Records and tensors alike; leftovers without a record go too."""
    place = open_place(tmp_path)
    place.write("000000002.safetensors", b"left by a run that was killed before the record")
    writer = CheckpointWriter(place, keep=2)
    for step in (1, 3, 10):
        writer.write(checkpoint(step))
    writer.wait()
    writer.close()
    assert steps(place) == [10, 3] and len(list(place.names())) == 4


def test_the_best_epoch_is_kept_beside_the_newest(tmp_path: Path) -> None:
    """That of the lowest validation error, the first of equal ones."""
    place, rows = open_place(tmp_path), list[dict[str, float]]()
    for step, error in ((4, 0.5), (8, 0.2), (12, 0.3), (16, 0.2), (20, 0.4)):
        rows.append({"step": step, "top1_error": error})
        write_checkpoint(place, replace(checkpoint(step), history=tuple(rows)), keep=2)
    assert steps(place) == [20, 16, 8] and len(list(place.names())) == 6


def test_going_back_forgets_what_lay_ahead(tmp_path: Path) -> None:
    """A checkpoint beyond the one just written belongs to a run that was given up."""
    place = open_place(tmp_path)
    for step in (10, 20, 15):
        write_checkpoint(place, checkpoint(step), keep=2)
    assert steps(place) == [15, 10]


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "swap"])
def test_a_damaged_newest_is_named_and_the_one_before_used(
    tmp_path: Path, suffix: str, harm: str
) -> None:
    """Whatever the harm; a deleted record means the checkpoint was never committed."""
    place = open_place(tmp_path)
    for step in (5, 6):
        write_checkpoint(place, checkpoint(step), keep=2)
    victim = tmp_path / f"000000006.{suffix}"
    if harm == "flip":
        flip(victim, 333)
    elif harm == "truncate":
        victim.write_bytes(victim.read_bytes()[:-9])
    elif harm == "delete":
        victim.unlink()
    else:
        victim.write_bytes((tmp_path / f"000000005.{suffix}").read_bytes())
    warnings: list[str] = []
    found = newest_checkpoint(place, warnings.append)
    assert found is not None and same(found, checkpoint(5))
    assert all("000000006" in text for text in warnings)
    assert len(warnings) == (0 if (suffix, harm) == ("json", "delete") else 1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 10**6), suffix=st.sampled_from(["safetensors", "json"]))
def test_any_flipped_bit_is_found(tmp_path: Path, position: int, suffix: str) -> None:
    """Anywhere in the record or in the tensors."""
    place = open_place(tmp_path)
    write_checkpoint(place, checkpoint(4), keep=1)
    flip(tmp_path / f"000000004.{suffix}", position)
    with pytest.raises(DamageError, match="000000004"):
        read_checkpoint(place, 4)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    """Work is not thrown away in silence."""
    place = open_place(tmp_path)
    write_checkpoint(place, checkpoint(5), keep=2)
    flip(tmp_path / "000000005.safetensors", 100)
    with pytest.raises(DamageError, match="all 1 checkpoints .* are damaged"):
        newest_checkpoint(place, lambda _: None)
