"""Through Ray and the command line: one worker equals two, and kills do not show."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from photos import class_folders, tree
from processes import descendants, kill, shard_workers

from pipeline.run import Job, in_process, preprocess

KILLS = int(os.environ.get("SEPTET_KILLS", "2"))  # twenty take minutes; each starts a Ray
PATIENCE_S = 25.0  # longer than most runs take: kills fall anywhere, after the end too
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 300 images, seconds of work; one image is bad."""
    root = class_folders(tmp_path_factory.mktemp("source") / "train", classes=4, images=300)
    (root / "n03" / "photo.9.JPEG").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a run without Ray, without trouble."""
    place = tmp_path_factory.mktemp("undisturbed")
    preprocess(Job(source=str(source), dataset=str(place), shard_samples=10), in_process)
    return tree(place)


def start(source: Path, place: Path, *options: str) -> subprocess.Popen[str]:
    """`septet preprocess` in a process group of its own."""
    command = [sys.executable, "-m", "septet", "preprocess", str(source), str(place)]
    return subprocess.Popen(
        [*command, "--shard-samples", "10", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
    )


def wait_for(condition: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there, or the process has ended."""
    while not condition.exists() and process.poll() is None:
        time.sleep(0.02)


def test_one_worker_equals_two_equals_none(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Identical bytes; the last line says what was made."""
    for workers in ("1", "2"):
        process = start(source, tmp_path / workers, "--workers", workers, "--json")
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert tree(tmp_path / workers) == undisturbed
        last = json.loads(out.splitlines()[-1])
        assert last["splits"]["train"] == {
            "samples": 1199,
            "rejects": 1,
            "shards": 120,
            "bytes": last["splits"]["train"]["bytes"],
        }
        assert last["rejects"] == {"empty": 1} and last["made_images"] == 1200
        assert "images/s" in err and "1 rejected" in err


def test_a_killed_worker_does_not_show(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """SIGKILL to a worker in the midst of a shard: the run goes on and ends in the same bytes."""
    process = start(source, tmp_path / "d", "--workers", "1")
    wait_for(tmp_path / "d" / "train" / "000002.tar", process)
    workers: list[int] = []
    while not workers and process.poll() is None:  # between two shards there is none
        workers = shard_workers(process.pid)
    for pid in workers:
        kill(pid)
    _, err = process.communicate()
    assert workers and process.returncode == 0, err
    assert tree(tmp_path / "d") == undisturbed


@pytest.mark.parametrize("kind", ["interrupt", "kill"])
def test_an_ended_run_is_continued(
    source: Path, undisturbed: dict[str, str], tmp_path: Path, kind: str
) -> None:
    """Ctrl-C gives exit code 130 and one line; after that or SIGKILL a re-run finishes the work."""
    process = start(source, tmp_path / "d", "--workers", "2")
    wait_for(tmp_path / "d" / "train" / "000003.tar", process)
    if kind == "interrupt":
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == (
            "septet: interrupted; run the same command again to continue."
        )
        assert "Traceback" not in err
    else:
        for pid in [*descendants(process.pid), process.pid]:
            kill(pid)
        process.communicate()
    assert not (tmp_path / "d" / "dataset.json").exists()
    there = len(list((tmp_path / "d" / "_commits" / "train").glob("*.json")))
    process = start(source, tmp_path / "d", "--workers", "1", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["made_images"] <= 1200 - 10 * there
    assert tree(tmp_path / "d") == undisturbed


@pytest.mark.timeout(1800)
def test_random_kills(source: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL at random moments to everything, or to the driver's workers alone, again and again.

    A dataset that gets finished in between is compared, and the next one begun.
    """
    draw, kills, made = random.Random(0), 0, 0
    while kills < KILLS:
        place = tmp_path / str(made)
        process = start(source, place, "--workers", draw.choice("12"))
        try:
            process.wait(draw.uniform(0, PATIENCE_S))
        except subprocess.TimeoutExpired:
            everything = draw.random() < 0.7
            workers = shard_workers(process.pid)
            for pid in [*descendants(process.pid), process.pid] if everything else workers:
                kill(pid)
            kills += 1
        _, err = process.communicate()
        if process.returncode == 0:
            assert tree(place) == undisturbed
            made += 1
        else:
            assert process.returncode in (-signal.SIGKILL, 1), err
    out, err = start(source, tmp_path / str(made)).communicate()
    assert tree(tmp_path / str(made)) == undisturbed, err
