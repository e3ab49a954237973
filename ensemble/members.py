"""Trains the members that are missing, one after another or side by side.

Each is one training by Ray; a thread waits for it. Everything that a member says comes to the
calling thread through one queue, so what is shown and logged needs no locks.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import ray

from ensemble.manifest import Failure
from ensemble.plan import EnsemblePlan
from infra.errors import SeptetError
from train.job import Job
from train.launch import train_on_ray
from train.member import Member
from train.sight import Observer, Row

LOOK_S = 0.5  # seconds between two looks at what the members said


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Where a member's news goes, in the calling thread; `stop` asks all of them to end."""

    row: Callable[[int, Row], None]
    progress: Callable[[int, int, int], None]  # member, images done, images in all
    warn: Callable[[str], None]
    finished: Callable[[int, Member], None]
    failed: Callable[[Failure], None]
    stop: Callable[[], bool]


def train_members(plan: EnsemblePlan, numbers: tuple[int, ...], listener: Listener) -> None:
    """Trains these members; one that fails is told to the listener, and the rest go on.

    Raises `KeyboardInterrupt` when the listener asked to stop, after each has its checkpoint.
    """
    news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(plan.parallel or room(plan.job(1)), thread_name_prefix="member")
    waiting = {
        pool.submit(train_on_ray, plan.job(number), _observer(number, news, listener)): number
        for number in numbers
    }
    stopped = False
    try:
        while waiting:
            done, _ = wait(waiting, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for tell in _drained(news):
                tell()
            for future in done:
                stopped |= _tell_end(plan, waiting.pop(future), future, listener)
            if listener.stop():
                for future in [future for future in waiting if future.cancel()]:
                    del waiting[future]
                stopped = True
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if stopped:
        raise KeyboardInterrupt


def room(job: Job) -> int:
    """How many such members the connected cluster holds side by side; at least 1.

    A replica takes its cores and, on GPUs, the two of a pair (one where a node has only one).
    """
    need = {"CPU": float(job.recipe.compute.cores)}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if job.device == "cuda":
        need["GPU"] = 1.0 if max(node.get("GPU", 0) for node in nodes) < 2 else 2.0
    replicas = sum(
        int(min(node.get(what, 0) // count for what, count in need.items())) for node in nodes
    )
    return max(replicas // job.replicas, 1)


def has_gpus() -> bool:
    """Whether the connected cluster has any."""
    return bool(ray.cluster_resources().get("GPU"))  # type: ignore[no-untyped-call]


def _observer(
    number: int, news: queue.SimpleQueue[Callable[[], None]], listener: Listener
) -> Observer:
    """What the member's thread talks to: it queues, the calling thread tells."""
    return Observer(
        record=lambda row: news.put(lambda: listener.row(number, row)),
        tick=lambda done, total: news.put(lambda: listener.progress(number, done, total)),
        warn=lambda text: news.put(lambda: listener.warn(f"member {number}: {text}")),
        stop=listener.stop,
    )


def _drained(news: queue.SimpleQueue[Callable[[], None]]) -> Iterator[Callable[[], None]]:
    while not news.empty():
        yield news.get()


def _tell_end(plan: EnsemblePlan, number: int, future: Future[Member], listener: Listener) -> bool:
    """Tells how a member ended; True when it was stopped."""
    error = future.exception()
    if error is None:
        listener.finished(number, future.result())
        return False
    if isinstance(error, KeyboardInterrupt):
        return True
    reason = str(error) if isinstance(error, SeptetError) else f"{type(error).__name__}: {error}"
    listener.failed(Failure(number=number, seed=plan.job(number).seed, reason=reason))
    return False
