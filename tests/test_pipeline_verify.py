"""`septet verify` names what is missing, altered, cut off, extra or inconsistent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from photos import class_folders

from infra.errors import DamageError, DataError
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess
from pipeline.verify import verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three shards with a reject."""
    root = tmp_path_factory.mktemp("verify")
    class_folders(root / "s", classes=2, images=10)
    (root / "s" / "n00" / "photo.3.JPEG").write_bytes(b"?")
    job = Job(source=str(root / "s"), dataset=str(root / "d"), shard_samples=8, max_bad=0.1)
    preprocess(job, in_process)
    return root / "d"


def flip(path: Path, at: int) -> None:
    """One bit."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def swap_shards(root: Path) -> None:
    """Two whole, valid shards under each other's names."""
    (root / "train/000000.tar").rename(root / "x")
    (root / "train/000001.tar").rename(root / "train/000000.tar")
    (root / "x").rename(root / "train/000001.tar")


HARM: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    # what is done, what is said, whether only --deep sees it
    "removed": (lambda d: (d / "train/000001.tar").unlink(), "train/000001.tar: missing", False),
    "cut off": (
        lambda d: (d / "train/000000.tar").write_bytes(b"x" * 99),
        "train/000000.tar: 99 bytes instead of",
        False,
    ),
    "extra": (
        lambda d: (d / "train/000009.tar").write_bytes(b""),
        "train/000009.tar: no part of the dataset",
        False,
    ),
    "bit flipped in a picture": (
        lambda d: flip(d / "train/000002.tar", 4000),
        "train/000002.tar: altered",
        True,
    ),
    "bit flipped in padding": (
        lambda d: flip(d / "train/000002.tar", -1),
        "train/000002.tar: altered",
        True,
    ),
    "shards swapped": (swap_shards, "bytes instead of", False),
    "index altered": (lambda d: flip(d / "index.parquet", 2000), "index.parquet: ", False),
    "index removed": (lambda d: (d / "index.parquet").unlink(), "index.parquet: ", False),
    "info altered": (lambda d: (d / "_info.json").write_bytes(b"{}"), "_info.json: not", False),
    "statistics altered": (lambda d: flip(d / "stats.npz", 2000), "stats.npz: ", False),
}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_named(whole: Path, tmp_path: Path, harm: str) -> None:
    """By the ordinary check where it can be seen, and always by the deep one."""
    shutil.copytree(whole, tmp_path / "d")
    do, said, only_deep = HARM[harm]
    do(tmp_path / "d")
    shallow = verify(open_place(tmp_path / "d"), deep=False).problems
    deep = verify(open_place(tmp_path / "d"), deep=True).problems
    assert any(problem.startswith(said) or said in problem for problem in deep)
    assert bool(shallow) is not only_deep


def test_a_harmed_sample_is_named_by_its_key(whole: Path, tmp_path: Path) -> None:
    """Which picture it is."""
    shutil.copytree(whole, tmp_path / "d")
    flip(tmp_path / "d/train/000002.tar", 4000)
    problems = verify(open_place(tmp_path / "d"), deep=True).problems
    assert any("sample train-000000" in problem for problem in problems)


def test_a_whole_dataset_is_whole(whole: Path) -> None:
    """Shallow and deep; rejects are no harm."""
    for deep in (False, True):
        report = verify(open_place(whole), deep=deep)
        assert report.problems == ()
        assert (report.samples, report.shards) == (19, 3)


def test_no_manifest_or_a_harmed_one(whole: Path, tmp_path: Path) -> None:
    """Is said at once."""
    with pytest.raises(DataError, match="no dataset.json"):
        verify(open_place(tmp_path), deep=False)
    shutil.copytree(whole, tmp_path / "d")
    (tmp_path / "d/dataset.json").write_text("{")
    with pytest.raises(DamageError, match="damaged"):
        verify(open_place(tmp_path / "d"), deep=False)


def test_the_command(whole: Path, tmp_path: Path) -> None:
    """Code 0 and one line, or every problem a line, a sentence and code 1."""
    command = [sys.executable, "-m", "septet", "verify"]
    done = subprocess.run([*command, str(whole), "--deep"], capture_output=True, text=True)
    assert done.returncode == 0 and "whole, 19 samples in 3 shards" in done.stdout
    shutil.copytree(whole, tmp_path / "d")
    (tmp_path / "d/train/000001.tar").unlink()
    done = subprocess.run([*command, str(tmp_path / "d")], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "train/000001.tar: missing\n"
    assert "harmed in one way" in done.stderr
    done = subprocess.run([*command, str(whole), "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["problems"] == []


def test_after_deleting_what_is_named_a_rerun_mends(whole: Path, tmp_path: Path) -> None:
    """As the command's sentence promises."""
    shutil.copytree(whole, tmp_path / "d")
    flip(tmp_path / "d/train/000002.tar", 4000)
    (tmp_path / "d/train/000002.tar").unlink()
    job = Job(
        source=str(whole.parent / "s"), dataset=str(tmp_path / "d"), shard_samples=8, max_bad=0.1
    )
    preprocess(job, in_process)
    assert verify(open_place(tmp_path / "d"), deep=True).problems == ()
