"""Ray, for the stages: connect or start, and map a function over items with a bound in flight."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from infra.errors import RunError


class TaskDied(RunError):
    """The process of a task ended before the task did: a crash, a kill, or its node is gone."""


Item = TypeVar("Item")
Result = TypeVar("Result")


def connect(address: str | None = None, cores: int | None = None) -> None:
    """Joins the Ray cluster at `address` (or RAY_ADDRESS), else starts one on this machine.

    `cores` limits a started Ray. Does nothing when this process is connected already. Quiet: Ray's
    dashboard and usage report stay off on a started Ray, worker logs are not repeated here.
    Raises `RunError` when there is no cluster at the address.
    """
    import logging

    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        options["address"] = address
    else:
        options |= {"address": "local", "include_dashboard": False}
        if cores:
            options["num_cpus"] = cores
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"cannot reach Ray at '{address or 'this machine'}': {error}.") from error


def cores() -> int:
    """CPU cores of the connected cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def map_unordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    in_flight: int,
    resources: dict[str, Any] | None = None,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Runs `function(item)` as Ray tasks, at most `in_flight` at once, yielding pairs as they end.

    Items are drawn only as room appears, so a stream of any length is fine. A task that fails
    (after Ray's own 3 retries when its process dies) yields its exception as the result: the
    caller decides. Leaving the loop cancels what is in flight. `resources` are Ray task options.
    """
    import ray
    from ray.exceptions import RayError

    remote = ray.remote(**{"num_cpus": 1, "max_retries": 3, **(resources or {})})(function)
    waiting: dict[Any, Item] = {}
    source = iter(items)
    try:
        while True:
            for item in itertools.islice(source, in_flight - len(waiting)):
                waiting[remote.remote(item)] = item
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
            for reference in ready:
                done = waiting.pop(reference)
                try:
                    result: Result | Exception = ray.get(reference)
                except RayError as error:
                    cause = getattr(error, "cause", None)
                    result = cause if isinstance(cause, Exception) else TaskDied(_first_line(error))
                yield done, result
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
