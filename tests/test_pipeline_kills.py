"""SIGKILL at random moments of a run into S3: what is finished afterwards does not show it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from photos import class_folders, tree, tree_at
from runs import start

from pipeline.run import Job

KILLS = int(os.environ.get("SEPTET_KILLS", "3"))
pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.mark.timeout(1800)
def test_random_kills_on_s3(bucket: str, tmp_path: Path) -> None:
    """A dataset that a killed run leaves is gone on with by the next, which may be killed as well.

    Moments are drawn from 0 to 1.1 times what an undisturbed run takes: some fall after its end.
    One that gets finished in between is compared, and the next begun.
    """
    source = class_folders(tmp_path / "s", classes=2, images=12)

    def job(dataset: str) -> Job:
        return Job(source=str(source), dataset=dataset, shard_samples=6)

    start(job(str(tmp_path / "disk")), tmp_path / "said").join()  # the fork server is warm now
    undisturbed = tree(tmp_path / "disk")
    draw, kills, made, took = random.Random(0), 0, 0, 0.0
    while kills < KILLS or made < 2:
        place, started = f"{bucket}/{made}", time.monotonic()
        run = start(job(place), tmp_path / "said")
        run.join(draw.uniform(0, 1.1 * took) if took and kills < KILLS else None)
        if run.exitcode is None:
            run.kill()
            run.join()
        if run.exitcode == -signal.SIGKILL:  # or it has ended just before
            kills += 1
        else:
            assert run.exitcode == 0, (tmp_path / "said").read_text()
            assert tree_at(place) == undisturbed
            took = took or time.monotonic() - started
            made += 1
    sys.stdout.write(f"{kills} kills, {made} datasets; one takes {took:.1f} s\n")
