"""A run that was killed or stopped anywhere ends in the same bits as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import tiny_recipe, write_dataset
from killed import train_quietly, train_until

from infra.storage import open_place
from train.checkpoint import steps
from train.job import Job
from train.local import train_here
from train.member import read_member

TIMES = ("images_per_s", "data_wait", "seconds")  # all that may differ
STEPS = 4  # updates of an epoch; an evaluation is one batch, so an epoch asks five times


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    dataset = write_dataset(folder / "data")
    job = Job(dataset=str(dataset), run=str(folder / "whole"), recipe=tiny_recipe(), seed=5)
    train_here(job)
    return job


def child(target: Callable[..., None], *arguments: object) -> int | None:
    """Runs a function in a process of its own; its exit code (-9: killed)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.local"])
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def rows(run: str) -> list[dict[str, float]]:
    """The metrics of a run, without what measures time."""
    lines = open_place(run).read("metrics.jsonl").splitlines()
    found = [json.loads(text) for text in lines]
    return [{key: row[key] for key in row if key not in TIMES} for row in found]


def assert_equal(ours: Job, whole: Job) -> None:
    """Same weights to the bit, same rows."""
    mine, theirs = (read_member(open_place(job.run)) for job in (ours, whole))
    assert mine.weights_sha256 == theirs.weights_sha256
    assert rows(ours.run) == rows(whole.run)


@pytest.mark.parametrize("moment", [0, 2, 4, 5, 7, 9, 14])
def test_killed_once(whole: Job, tmp_path: Path, moment: int) -> None:
    """In the first update, in mid-epoch, in an evaluation, after an epoch, in the last evaluation.

    With a checkpoint after every update, so that every cursor is resumed from.
    """
    job = replace(whole, run=str(tmp_path), checkpoint_s=0.0)
    assert child(train_until, job, moment) == -signal.SIGKILL
    assert child(train_quietly, job) == 0
    assert_equal(job, whole)


def test_killed_without_a_checkpoint_in_the_epoch(whole: Job, tmp_path: Path) -> None:
    """The epoch is done again from its start."""
    job = replace(whole, run=str(tmp_path))
    assert child(train_until, job, 7) == -signal.SIGKILL
    assert steps(open_place(tmp_path).child("checkpoints")) == [STEPS]
    assert child(train_quietly, job) == 0
    assert_equal(job, whole)


def test_killed_again_and_again(whole: Job, tmp_path: Path) -> None:
    """Ten times in one run, an update or an evaluation apart."""
    job = replace(whole, run=str(tmp_path), checkpoint_s=0.0)
    kills = 0
    while kills < 10:
        assert child(train_until, job, 1) == -signal.SIGKILL
        kills += 1
    assert child(train_quietly, job) == 0
    assert_equal(job, whole)


@pytest.mark.parametrize("moment", [1, 4, 6])
def test_stopped_with_a_checkpoint(whole: Job, tmp_path: Path, moment: int) -> None:
    """A stop saves what was done, in an update and in an evaluation, and exits with 130."""
    job = replace(whole, run=str(tmp_path))
    assert child(train_until, job, moment, signal.SIGTERM) == 130
    done = {1: 2, 4: 4, 6: 6}[moment]
    assert steps(open_place(tmp_path).child("checkpoints"))[0] == done
    assert child(train_quietly, job) == 0
    assert_equal(job, whole)


def test_a_damaged_newest_checkpoint_is_passed_over(whole: Job, tmp_path: Path) -> None:
    """The run goes on from the one before, and ends in the same bits."""
    job = replace(whole, run=str(tmp_path), checkpoint_s=0.0)
    assert child(train_until, job, 7) == -signal.SIGKILL
    newest = steps(open_place(tmp_path).child("checkpoints"))[0]
    victim = tmp_path / f"checkpoints/{newest:09}.safetensors"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 8
    victim.write_bytes(data)
    assert child(train_quietly, job) == 0
    assert_equal(job, whole)
