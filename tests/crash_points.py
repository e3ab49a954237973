"""Runs a job to every durable action in turn, dies there by SIGKILL, and runs it again.

    python crash_points.py SOURCE DATASET

A process of its own: it loads torch once and forks a child for each run. Prints a JSON line: the
actions of an undisturbed run, its digests, and for every crash what was wrong, if anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch

from infra import actions
from infra.errors import DataError
from infra.manifest import DatasetManifest
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess

SOURCE, DATASET = sys.argv[1:]


def run(dataset: str, crash_at: int | None = None) -> list[str]:
    """The job in this process; the actions it took. With `crash_at` it dies at that one."""
    seen: list[str] = []

    def observe(what: str) -> None:
        if len(seen) == crash_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(what)

    actions.observers[:] = [observe]
    preprocess(Job(source=SOURCE, dataset=dataset, shard_samples=4), in_process)
    return seen


def in_child(task: Callable[[], Any]) -> tuple[int, Any]:
    """Exit status and result (as JSON) of a function in a forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        with os.fdopen(writer, "w") as file:
            json.dump(task(), file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    return os.waitpid(child, 0)[1], json.loads(said) if said else None


def tree(dataset: str) -> dict[str, str]:
    """Digests of all objects, and of any file beside them on disk."""
    place = open_place(dataset)
    found = {name: hashlib.sha256(place.read(name)).hexdigest() for name in place.names()}
    if "://" not in dataset:
        for folder, _, files in os.walk(dataset):
            found |= {f"{folder}/{name}": "left aside" for name in files if name.endswith(".tmp")}
    return found


def reader_is_safe(dataset: str) -> bool:
    """What a reader sees after the crash: no dataset, or one whose every shard is as promised."""
    place = open_place(dataset)
    try:
        manifest, _ = DatasetManifest.read(place)
    except DataError:
        return True
    return all(
        hashlib.sha256(place.read(shard.name)).hexdigest() == shard.sha256
        for split in manifest.splits.values()
        for shard in split.shards
    )


def main() -> None:
    """Undisturbed, then a crash at every action."""
    torch.set_num_threads(1)
    run(f"{DATASET}/warm")  # what is loaded on first use is loaded here, not in every child
    _, seen = in_child(lambda: run(f"{DATASET}/whole"))
    whole = tree(f"{DATASET}/whole")
    wrong: dict[str, str] = {}
    for number, what in enumerate(seen):
        dataset = f"{DATASET}/{number}"
        status, _ = in_child(lambda at=number, to=dataset: run(to, at))
        if status != signal.SIGKILL:
            wrong[f"{number} {what}"] = f"did not die: {status}"
        if not reader_is_safe(dataset):
            wrong[f"{number} {what}"] = "a reader is fooled"
        again, _ = in_child(lambda to=dataset: run(to))
        if again or tree(dataset) != whole:
            wrong[f"{number} {what}"] = f"the bytes differ ({again})"
    sys.stdout.write(json.dumps({"actions": seen, "tree": whole, "wrong": wrong}))


if __name__ == "__main__":
    main()
