"""Runs that die at a chosen moment, as targets of processes that a test starts and buries."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count

from train.job import Job
from train.local import train_here
from train.sight import Observer


def train_until(job: Job, moment: int, signal_number: int = signal.SIGKILL) -> None:
    """Trains and sends itself a signal when `stop` is asked for the `moment`-th time (from 0).

    The loop asks once in each update, after the gradients and before the weights change, and once
    for each batch of an evaluation.
    """
    asked, stopping = count(), [False]

    def stop() -> bool:
        if next(asked) == moment:
            if signal_number == signal.SIGKILL:
                os.kill(os.getpid(), signal_number)
            stopping[0] = True
        return stopping[0]

    train_quietly(job, stop)


def train_quietly(job: Job, stop: Callable[[], bool] = lambda: False) -> None:
    """Trains to the end, or exits 130 when stopped."""
    try:
        train_here(job, Observer(stop=stop))
    except KeyboardInterrupt:
        sys.exit(130)
