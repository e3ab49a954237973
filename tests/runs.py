"""Runs of preprocessing in processes of their own, which tests let compete or kill.

A fork server that has torch loaded starts them: each begins within some 50 ms.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Barrier

from infra.errors import SeptetError
from pipeline.run import Job, in_process, preprocess

CONTEXT = multiprocessing.get_context("forkserver")
# a test run has one fork server: what tests of training start from it is loaded too
CONTEXT.set_forkserver_preload(["pipeline.shard", "pipeline.run", "boto3", "train.local"])


def start(job: Job, said: Path, together: Barrier | None = None) -> BaseProcess:
    """A process that runs the job, with today's AWS_* settings; with others of a barrier at once.

    It exits with the command's codes; `said` gets the message of an error.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = CONTEXT.Process(target=_run, args=(job, said, together, settings))
    process.start()
    return process


def _run(job: Job, said: Path, together: Barrier | None, settings: dict[str, str]) -> None:
    os.environ |= settings
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # no progress among the test's lines
    if together:
        together.wait(60)
    try:
        preprocess(job, in_process)
    except SeptetError as error:
        said.write_text(str(error))
        sys.exit(error.exit_code)
