"""The Ray launcher: the same `fit`, one Ray Train worker a replica.

All of Ray that training touches is here. Ray starts the workers, gives them devices and a process
group, and starts them again when one dies; they go on from the run's own last checkpoint, so Ray
keeps no state of ours and its storage is a temporary folder. Rows, warnings and the wish to stop
travel through a small actor, the mailbox, because workers write to logs that nobody looks at.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray
import torch
from ray.train import (
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    get_context,
    get_preemption_info,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_devices
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infra.errors import ConfigError, RunError, SeptetError
from infra.manifest import DatasetManifest
from infra.storage import open_place
from train.checkpoint import steps
from train.fit import fit
from train.job import Job
from train.mailbox import Mail, Mailbox
from train.member import Member, open_run, read_member
from train.replica import Replica
from train.sight import QUIET, Observer, Row

LOOK_S = 0.2  # seconds between two looks into the mailbox
SAY_S = 0.5  # seconds between two words from the worker


class Words:
    """The worker's end of the mailbox: an observer that sends now and then and never waits."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox, self.mail, self.said_at = mailbox, Mail(), 0.0
        self.stopping = False
        self.answer: Any = None
        self.notice: Any = None

    def observer(self) -> Observer:
        """The observer that `fit` talks to."""
        return Observer(
            record=self._record,
            tick=self._tick,
            warn=lambda text: self.mail.warnings.append(text),
            stop=self._stop,
            leaving=self._leaving,
        )

    def _record(self, row: Row) -> None:
        self.mail.rows.append(row)

    def _tick(self, done: int, total: int) -> None:
        self.mail.done, self.mail.total = done, total

    def _stop(self) -> bool:
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            self.stopping, self.answer = ray.get(self.answer), None
        if self.answer is None and time.monotonic() - self.said_at >= SAY_S:
            self.flush()
        return self.stopping

    def _leaving(self) -> bool:
        """True once for each notice that a node of ours will be preempted (Ray's barrier)."""
        notice = get_preemption_info()
        new, self.notice = notice is not None and notice != self.notice, notice
        return new

    def flush(self) -> None:
        """Sends what was said since the last time."""
        self.said_at = time.monotonic()
        self.answer = self.mailbox.say.remote(self.mail)
        self.mail = Mail(done=self.mail.done, total=self.mail.total)


class Outcome:
    """What a block in a thread raised, for the thread that waits for it."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error
        return True


def train_on_ray(job: Job, observer: Observer = QUIET) -> Member:
    """The job's member, trained by Ray Train on the connected cluster, from where it was left.

    A dead worker is replaced and the run goes on from its last checkpoint; after four starts
    without progress it is given up. Raises `KeyboardInterrupt` when the observer asked to stop (a
    checkpoint is written first), `ConfigError` when the cluster cannot hold the replicas or the
    folder is another job's, and what `fit` raises.
    """
    job, run = _anywhere(job), open_place(job.run)
    if open_run(run, job, DatasetManifest.read(open_place(job.dataset))[1]):
        return read_member(run)
    need = _resources(job)
    mailbox = _mailbox()
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="septet-ray-") as scratch:
        # a daemon, and watched from here: Ray's own Ctrl-C would end workers without a checkpoint
        arguments = (job, need, mailbox, scratch, outcome)
        thread = threading.Thread(target=_run, args=arguments, daemon=True)
        thread.start()
        stopped = _watch(thread, mailbox, observer)
    failure: SeptetError | None = ray.get(mailbox.verdict.remote())
    if failure is not None:
        raise failure
    if outcome.error is not None:
        raise RunError(
            f"Ray ended the training of '{job.run}': {outcome.error}."
        ) from outcome.error
    if run.size("member.json") is None and stopped:
        raise KeyboardInterrupt
    return read_member(run)


def _anywhere(job: Job) -> Job:
    """The job with places that mean the same in workers, whose working directories differ."""
    init = open_place(job.init).uri if job.init else None
    return replace(job, dataset=open_place(job.dataset).uri, run=open_place(job.run).uri, init=init)


def _mailbox() -> Any:
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


def _watch(thread: threading.Thread, mailbox: Any, observer: Observer) -> bool:
    """Passes the workers' words on until the training ends; True when a stop was asked for."""
    stop = False
    while True:
        ending = not thread.is_alive()
        stop = stop or observer.stop()
        mail: Mail = ray.get(mailbox.take.remote(stop))
        for text in mail.warnings:
            observer.warn(text)
        for row in mail.rows:
            observer.record(row)
        if mail.total:
            observer.tick(mail.done, mail.total)
        if ending or (stop and not mail.begun):  # perhaps no room in the cluster: do not wait
            return stop
        thread.join(LOOK_S)


def _run(job: Job, need: dict[str, float], mailbox: Any, scratch: str, outcome: Outcome) -> None:
    with outcome:
        _trainer(job, need, mailbox, scratch).fit()


def _trainer(job: Job, need: dict[str, float], mailbox: Any, scratch: str) -> TorchTrainer:
    return TorchTrainer(
        _work,
        train_loop_config={"job": job, "mailbox": mailbox},
        torch_config=TorchConfig(backend="nccl" if job.device == "cuda" else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.replicas,
            use_gpu=job.device == "cuda",
            resources_per_worker=need,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # Ray's types show an older one
            name="run",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=-1),  # the mailbox counts, by progress
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """A worker's whole life."""
    job, mailbox = config["job"], config["mailbox"]
    context = get_context()
    devices = [torch.device(device) for device in get_devices()]
    if job.device == "cuda":
        torch.cuda.set_device(devices[0])
    replica = Replica(
        rank=context.get_world_rank(),
        count=context.get_world_size(),
        devices=(devices[0], devices[-1]),
    )
    at = max(steps(open_place(job.run).child("checkpoints")), default=0)
    go = replica.rank == 0 and ray.get(mailbox.begin.remote(at))
    if not replica.any(go):
        return
    words = Words(mailbox)
    try:
        fit(job, replica=replica, observer=words.observer())
    except SeptetError as error:
        ray.get(mailbox.fail.remote(error))
        if replica.count > 1:
            raise  # the others wait for this one: Ray must end them
    finally:
        if replica.rank == 0:
            words.flush()
            ray.get(words.answer)


def _resources(job: Job) -> dict[str, float]:
    """What a replica takes of one node: its cores, and two GPUs where a node has two."""
    cores = job.recipe.compute.cores
    need = {"CPU": float(cores)}
    cluster: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["Resources"] for node in cluster if node["Alive"]]
    if job.device == "cuda":
        most = max(node.get("GPU", 0) for node in nodes)
        if most < 1:
            raise ConfigError("--device cuda: the Ray cluster has no GPU; use --device cpu.")
        need["GPU"] = min(most, 2.0)
    room = sum(
        int(min(node.get(what, 0) // count for what, count in need.items())) for node in nodes
    )
    if room < job.replicas:
        text = " and ".join(f"{count:g} {what}" for what, count in need.items())
        raise ConfigError(
            f"{job.replicas} replicas of {text} do not fit: the Ray cluster holds {room}; "
            "lower --replicas or compute.cores."
        )
    return need
