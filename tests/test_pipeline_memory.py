"""Ten times the images, the same peak memory, of the driver and of a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from photos import jpeg
from processes import high_water_kib, shard_workers

IMAGES = int(os.environ.get("SEPTET_IMAGES", "2000"))  # and ten times as many
PICTURES = 50  # distinct ones; the rest are links to them
MAY_DIFFER = 1.10
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]


def many(root: Path, images: int) -> Path:
    """Ten classes of small pictures."""
    (root / "pictures").mkdir(parents=True)
    for number in range(PICTURES):
        (root / "pictures" / str(number)).write_bytes(jpeg(number, 64, 48))
    for number in range(images):
        path = root / "source" / f"n{number % 10:02d}" / f"{number:07d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(root / "pictures" / str(number % PICTURES))
    return root / "source"


def peaks_kib(source: Path, dataset: Path) -> tuple[int, int]:
    """Of the driver and of the largest worker of one `septet preprocess`."""
    command = [sys.executable, "-m", "septet", "preprocess", str(source), str(dataset)]
    options = ["--workers", "2", "--shard-samples", "500"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    driver, worker, workers = 0, 0, set[int]()
    while process.poll() is None:
        driver = max(driver, high_water_kib(process.pid))
        workers |= set(shard_workers(process.pid))
        worker = max([worker, *map(high_water_kib, workers)])
        time.sleep(0.1)
    assert process.returncode == 0 and driver and worker
    return driver, worker


def test_ten_times_the_images_take_the_same_memory(tmp_path: Path) -> None:
    """Both peaks differ by less than a tenth."""
    few = peaks_kib(many(tmp_path / "few", IMAGES), tmp_path / "few" / "dataset")
    more = peaks_kib(many(tmp_path / "more", 10 * IMAGES), tmp_path / "more" / "dataset")
    told = f"driver {few[0]} and {more[0]} KiB, worker {few[1]} and {more[1]} KiB"
    assert more[0] < MAY_DIFFER * few[0], told
    assert more[1] < MAY_DIFFER * few[1], told
