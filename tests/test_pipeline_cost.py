"""What a preprocessing would cost, and that the largest source there is can be planned at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from photos import class_folders

SEPTET = [sys.executable, "-m", "septet"]

FALL_2011 = """
import re, time
from pathlib import Path
from infra.manifest import ClassName
from pipeline.listing import Columns
from pipeline.plan import Plan
from pipeline.rule import ImageRule
started, images, classes = time.process_time(), 15_000_000, 22_000
columns = Columns()
for label in range(classes):
    wnid = f"n{label:08d}"
    columns.open(f"{wnid}.tar/", f"{wnid}.tar")
    for number in range(images // classes + (label < images % classes)):
        columns.add(f"{wnid}_{number}.JPEG", label, 110_000 + number, 512 * number)
names = [ClassName(label=n, wnid=f"n{n:08d}", words="") for n in range(classes)]
listing = columns.listing("s", names)
plan = Plan(splits={"train": listing}, rule=ImageRule(), seed=0, shard_samples=1024)
plan.record()
first = next(plan.tasks("d", "p"))
# not getrusage: its peak is inherited from whoever started this process
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(len(listing), len(first.items), round(time.process_time() - started), round(peak))
"""


def test_plan_says_what_it_would_cost(tmp_path: Path) -> None:
    """Counts are exact; nothing is written."""
    root = class_folders(tmp_path / "s", classes=2, images=40)
    done = subprocess.run(
        [*SEPTET, "plan", str(root), "--shard-samples", "32", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in root.rglob("*.JPEG"))
    assert (figures["images"], figures["shards"]) == ({"train": 80}, 3)
    assert (figures["classes"], figures["source_bytes"]) == (2, size)
    done = subprocess.run([*SEPTET, "plan", str(root)], capture_output=True, text=True, check=True)
    assert "2 classes, train 80 images" in done.stdout and "core-hours" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


@pytest.mark.slow
def test_fifteen_million_images_fit(tmp_path: Path) -> None:
    """The Fall 2011 release: listing, digest, permutation and a first task, under 1 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", FALL_2011], capture_output=True, text=True, check=True
    )
    images, items, _, peak_mb = map(int, done.stdout.split())
    assert (images, items) == (15_000_000, 1024)
    assert peak_mb < 1024
