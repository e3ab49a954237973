"""Training by Ray: the same bits as the plain loop, whatever happens to the workers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import ray
from handmade import tiny_recipe, write_dataset

from infra.cluster import connect
from infra.errors import ConfigError, RunError
from infra.storage import open_place
from train.checkpoint import steps
from train.evaluate import evaluate
from train.job import Job
from train.launch import train_on_ray
from train.local import train_here
from train.member import Member, load_member
from train.samples import Samples
from train.sight import Observer, Row

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # Ray Train 2.60 reads settings of Ray Data that Ray Data calls deprecated
    pytest.mark.filterwarnings("ignore:`use_.*is deprecated:DeprecationWarning:ray"),
]
TOLERANCE = 1e-4  # of losses and between one replica and two, whose float32 sums differ in order


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray of two cores."""
    connect(cores=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Member]:
    """A member trained by the plain loop; its batches of 8 end with one of 2, epochs after 26."""
    folder = tmp_path_factory.mktemp("launch")
    dataset = write_dataset(folder / "data")
    job = Job(dataset=str(dataset), run=str(folder / "whole"), recipe=tiny_recipe(), seed=3)
    return job, train_here(job)


@pytest.fixture(scope="module")
def long(whole: tuple[Job, Member], tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Member]:
    """The same of 12 epochs, 48 updates."""
    recipe, run = tiny_recipe(schedule__epochs=12), tmp_path_factory.mktemp("long")
    job = replace(whole[0], run=str(run), recipe=recipe, checkpoint_s=0.0)
    return job, train_here(job)


def rows(run: str) -> list[Row]:
    """The metrics of a run."""
    text = open_place(run).read("metrics.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def assert_close(ours: str, theirs: str) -> None:
    """Same epochs, steps and rates; losses to the tolerance."""
    for a, b in zip(rows(ours), rows(theirs), strict=True):
        assert (a["epoch"], a["step"], a["lr"]) == (b["epoch"], b["step"], b["lr"])
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=TOLERANCE)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=TOLERANCE)


def workers() -> list[int]:
    """Process ids of the training workers of this test's own Ray."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "cmdline").read_bytes().startswith(
                b"ray::RayTrainWorker"
            ):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return [pid for pid in found if os.getpid() in _ancestors(pid)]


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def test_ray_gives_the_plain_loop_s_bits(whole: tuple[Job, Member], tmp_path: Path) -> None:
    """And tells the same rows, in order."""
    told: list[Row] = []
    job = replace(whole[0], run=str(tmp_path))
    member = train_on_ray(job, Observer(record=told.append))
    assert member.weights_sha256 == whole[1].weights_sha256
    assert told == rows(job.run) and [row["epoch"] for row in told] == [1, 2, 3]
    assert train_on_ray(job, Observer(tick=pytest.fail)) == member


def test_two_replicas_share_each_batch(whole: tuple[Job, Member], tmp_path: Path) -> None:
    """Same losses as one to the tolerance, last batch and all; the errors are exact counts."""
    job = replace(whole[0], run=str(tmp_path), replicas=2)
    member = train_on_ray(job)
    assert_close(job.run, whole[0].run)
    loaded = load_member(open_place(tmp_path))
    found = evaluate(loaded.network, Samples(open_place(job.dataset), "val"), loaded.stats)
    assert found is not None and found.top1_error == member.metrics["top1_error"]


def test_replicas_may_change_when_a_run_goes_on(long: tuple[Job, Member], tmp_path: Path) -> None:
    """Two, then one, then two: stopped in between, with the same batches."""
    checkpoints, cursors = open_place(tmp_path).child("checkpoints"), [0]

    def stop() -> bool:
        return max(steps(checkpoints), default=0) > cursors[-1]

    for replicas in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            train_on_ray(
                replace(long[0], run=str(tmp_path), replicas=replicas), Observer(stop=stop)
            )
        assert not (tmp_path / "member.json").exists()
        cursors.append(steps(checkpoints)[0])
    assert 0 < cursors[1] < cursors[2] < 48
    train_on_ray(replace(long[0], run=str(tmp_path), replicas=2))
    assert_close(str(tmp_path), long[0].run)


def test_workers_killed_ten_times(long: tuple[Job, Member], tmp_path: Path) -> None:
    """SIGKILL after every step or few, in updates, evaluations and writing: the same bits."""
    checkpoints, kills, over = open_place(tmp_path).child("checkpoints"), list[int](), Event()

    def kill() -> None:
        while len(kills) < 10 and not over.is_set():
            done, pids = max(steps(checkpoints), default=0), workers()
            if done > max(kills, default=0) and pids:
                os.kill(pids[0], signal.SIGKILL)
                kills.append(done)
            time.sleep(0.01)

    killer = Thread(target=kill)
    killer.start()
    try:
        member = train_on_ray(replace(long[0], run=str(tmp_path)))
    finally:
        over.set()
        killer.join()
    assert member.weights_sha256 == long[1].weights_sha256
    assert len(kills) == 10, f"killed after the steps {kills}"


def test_what_no_restart_can_cure_ends_at_once(whole: tuple[Job, Member], tmp_path: Path) -> None:
    """The workers' own sentence reaches the driver; too many replicas are refused before."""
    wild = replace(whole[0], run=str(tmp_path / "a"), recipe=tiny_recipe(optimizer__lr=1e18))
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step"):
        train_on_ray(wild)
    with pytest.raises(ConfigError, match=r"9 replicas of 1 CPU do not fit"):
        train_on_ray(replace(whole[0], run=str(tmp_path / "b"), replicas=9))
