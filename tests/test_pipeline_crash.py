"""Killed at every durable action of a four-shard job: the bytes do not show it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from photos import class_folders

SCRIPT = Path(__file__).with_name("crash_points.py")


def crash(source: Path, dataset: str) -> dict[str, Any]:
    """What the script found."""
    command = [sys.executable, str(SCRIPT), str(source), dataset]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some 130 actions, each a run that dies and one that mends it
def test_on_disk(tmp_path: Path) -> None:
    """Plan, four shards and their records, index, statistics, info, manifest: 5 actions each."""
    source = class_folders(tmp_path / "s", classes=2, images=8)
    found = crash(source, str(tmp_path / "d"))
    assert found["wrong"] == {}
    assert len(found["tree"]) == 13
    assert len(found["actions"]) >= 2 * 5 * 13
    kinds = {what.split()[1] for what in found["actions"]}
    assert kinds == {"open", "write", "flush", "rename", "link", "unlink", "settle"}


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(1800)
def test_on_s3(tmp_path: Path, bucket: str) -> None:
    """A PUT an object."""
    source = class_folders(tmp_path / "s", classes=2, images=8)
    found = crash(source, bucket)
    assert found["wrong"] == {}
    assert len(found["actions"]) == 2 * len(found["tree"]) == 26
