"""A picture that kills or hangs its decoder costs that picture alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from photos import jpeg

from pipeline.careful import decoder
from pipeline.header import BadImage
from pipeline.image import Picture, square


def fragile(data: bytes) -> Picture:
    """A decoder with two bugs."""
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"hang":
        time.sleep(60)
    return square(data)


def test_the_culprit_is_refused_and_its_neighbours_are_not() -> None:
    """Good, crashing, good, not an image, hanging, good: each gets what it deserves."""
    good = jpeg(1)
    outcomes = []
    with decoder(careful=True, square=fragile, patience_s=3) as decode:
        for data in (good, b"crash", good, b"text", b"hang", good):
            try:
                outcomes.append(np.array_equal(decode(data).pixels, square(data).pixels))
            except BadImage as reason:
                outcomes.append(str(reason))
    assert outcomes == [True, "kills_decoder", True, "not_an_image", "too_slow", True]


def test_a_hang_ends_the_process_in_the_ordinary_way() -> None:
    """By SIGALRM, whatever the decoder does; a wait between two pictures is no hang."""
    script = """
import time
from pipeline.careful import decoder
with decoder(careful=False, square=lambda data: 1, patience_s=0.5) as decode:
    decode(b"")
    time.sleep(1)
    decode(b"")
print("alive", flush=True)
with decoder(careful=False, square=lambda data: time.sleep(60), patience_s=0.5) as decode:
    decode(b"")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "alive\n"
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize("careful", [False, True])
def test_both_ways_give_the_same_pixels(careful: bool) -> None:
    """Through the pipe nothing changes."""
    with decoder(careful=careful) as decode:
        got = decode(jpeg(7))
    assert np.array_equal(got.pixels, square(jpeg(7)).pixels)
    assert (got.width, got.height) == (96, 72)
