"""The plain launcher: one replica, in this process, without Ray."""

from __future__ import annotations

import torch

from infra.errors import ConfigError
from infra.manifest import DatasetManifest
from infra.storage import open_place
from train.fit import fit
from train.job import Job
from train.member import Member, open_run, read_member
from train.replica import Replica
from train.sight import QUIET, Observer


def train_here(job: Job, observer: Observer = QUIET) -> Member:
    """The job's member, trained in this process from where the last run left off.

    Raises `KeyboardInterrupt` when the observer asked to stop (a checkpoint is written first),
    `ConfigError` for more than one replica or another job's run folder, and what `fit` raises.
    """
    if job.replicas != 1:
        raise ConfigError(f"{job.replicas} replicas need Ray; leave out --local.")
    run = open_place(job.run)
    if not open_run(run, job, DatasetManifest.read(open_place(job.dataset))[1]):
        threads = torch.get_num_threads()
        try:
            finished = fit(job, replica=Replica(devices=_devices(job)), observer=observer)
        finally:
            torch.set_num_threads(threads)
        if not finished:
            raise KeyboardInterrupt
    return read_member(run)


def _devices(job: Job) -> tuple[torch.device, torch.device]:
    if job.device == "cpu":
        return torch.device("cpu"), torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here; use --device cpu.")
    return torch.device("cuda:0"), torch.device(f"cuda:{min(torch.cuda.device_count(), 2) - 1}")
