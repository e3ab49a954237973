"""The command line of the pipeline: sentences, exit codes, quick answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from photos import class_folders


def septet(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    command = [sys.executable, "-m", "septet", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "options,said",
    [
        ([], "has no class folders"),
        (["--quality", "0"], "--quality is 0; it must be from 1 to 100"),
        (["--max-bad", "2"], "--max-bad is 2.0"),
        (["--on-bad", "cry"], "'cry' is not one of"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_code_2(
    tmp_path: Path, options: list[str], said: str
) -> None:
    """No traceback, nothing made."""
    done = septet("preprocess", str(tmp_path / "nowhere"), str(tmp_path / "d"), *options)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not (tmp_path / "d").exists()


def test_a_place_that_cannot_be_written_is_code_1(tmp_path: Path) -> None:
    """The dataset's parent is a file."""
    class_folders(tmp_path / "s", classes=1, images=1)
    (tmp_path / "file").write_text("")
    done = septet("preprocess", str(tmp_path / "s"), str(tmp_path / "file" / "d"))
    assert done.returncode == 1
    assert done.stderr.startswith("septet: cannot write") and len(done.stderr.splitlines()) == 1


def test_help_has_an_example() -> None:
    """And every option of the contract."""
    done = septet("preprocess", "--help")
    assert "Example: septet preprocess" in done.stdout
    for option in ("--val", "--shard-samples", "--quality", "--workers", "--on-bad", "--max-bad"):
        assert option in done.stdout
