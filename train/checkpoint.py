"""Checkpoints: everything a run needs to go on as if it had never stopped, by commit.

A checkpoint is two objects in `RUN/checkpoints/`: the tensors (`000000128.safetensors`) and,
written after them, the record (`000000128.json`) with their digest and its own. Without a record
there is no checkpoint. Both digests are checked before anything is used; nothing is unpickled.

Weights and velocities are in the canonical layout, so a checkpoint says nothing of devices or
replicas. The cursor is one integer, the number of updates made: order, augmentation and dropout are
pure functions of it, of the seed and of the sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from safetensors.torch import load, save
from torch import Tensor

from infra.errors import DamageError, DataError, StorageError
from infra.manifest import sha256, to_json
from infra.storage import Place
from train.sight import Row
from train.tally import Tally

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """The state of a run after `step` updates; `history` has a row for each epoch evaluated."""

    step: int
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]
    history: tuple[Row, ...] = ()
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0  # of work on this member so far, in all its runs


def write_checkpoint(place: Place, checkpoint: Checkpoint, keep: int) -> None:
    """Publishes a checkpoint, then removes all but the newest `keep` and the best epoch's.

    Raises `StorageError`; what was there before is whole in any case.
    """
    stem = f"{checkpoint.step:09}"
    tensors = {f"weight/{name}": value for name, value in checkpoint.weights.items()}
    tensors |= {f"velocity/{name}": value for name, value in checkpoint.velocities.items()}
    data = save(tensors)
    place.write(f"{stem}.safetensors", data)
    content = {
        "format": FORMAT,
        "step": checkpoint.step,
        "history": list(checkpoint.history),
        "tally": asdict(checkpoint.tally),
        "seconds": checkpoint.seconds,
        "tensors_sha256": sha256(data),
    }
    record = {"content": content, "sha256": sha256(to_json(content))}
    place.write(f"{stem}.json", to_json(record))
    _prune(place, checkpoint, keep)


def steps(place: Place) -> list[int]:
    """The steps of the committed checkpoints, newest first."""
    stems = (name.removesuffix(".json") for name in place.names() if name.endswith(".json"))
    return sorted((int(stem) for stem in stems if stem.isdecimal()), reverse=True)


def read_checkpoint(place: Place, step: int) -> Checkpoint:
    """The checkpoint of that step; raises `DamageError` unless it is exactly what was written."""
    stem = f"{step:09}"
    try:
        record = json.loads(place.read(f"{stem}.json"))
        content = record["content"]
        intact = sha256(to_json(content)) == record["sha256"] and content["step"] == step
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamageError(f"checkpoint {stem}.json in '{place.uri}' is damaged: {error}.") from None
    if not intact:
        raise DamageError(f"checkpoint {stem}.json in '{place.uri}' is damaged: its digest is off.")
    if content["format"] != FORMAT:
        raise DamageError(
            f"checkpoint {stem}.json in '{place.uri}' has format {content['format']}; "
            f"this version reads {FORMAT}."
        )
    data = place.read(f"{stem}.safetensors")
    if sha256(data) != content["tensors_sha256"]:
        raise DamageError(
            f"checkpoint {stem}.safetensors in '{place.uri}' is damaged: its digest is off."
        )
    tensors = load(data)
    return Checkpoint(
        step=step,
        weights=_part(tensors, "weight/"),
        velocities=_part(tensors, "velocity/"),
        history=tuple(content["history"]),
        tally=Tally(**content["tally"]),
        seconds=content["seconds"],
    )


def newest_checkpoint(place: Place, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; each damaged one is named to `warn` and passed over.

    None when there is none at all. Raises `DamageError` when there are some and all are damaged.
    """
    found = steps(place)
    for step in found:
        try:
            return read_checkpoint(place, step)
        except (DamageError, DataError, StorageError) as error:
            warn(f"{error} The one before it is used.")
    if found:
        raise DamageError(
            f"all {len(found)} checkpoints in '{place.uri}' are damaged; "
            "remove the run's folder to start it again."
        )
    return None


class CheckpointWriter:
    """Writes checkpoints in the background, one at a time, in order."""

    def __init__(self, place: Place, keep: int) -> None:
        self.place, self.keep = place, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Hands over a checkpoint; its tensors must not change any more.

        Waits for the one before it, and raises the `StorageError` that one met.
        """
        self.wait()
        self._last = self._thread.submit(write_checkpoint, self.place, checkpoint, self.keep)

    def wait(self) -> None:
        """Returns when everything handed over is committed; raises the `StorageError` it met."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def close(self) -> None:
        """Ends the thread after what it is writing."""
        self._thread.shutdown(wait=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _prune(place: Place, newest: Checkpoint, keep: int) -> None:
    # what lies beyond the newest was passed over as damaged, or belongs to a run that went back
    kept = set([step for step in steps(place) if step <= newest.step][:keep])
    if newest.history:
        kept.add(min(newest.history, key=lambda row: float(row["top1_error"]))["step"])
    stale = [name for name in place.names() if _stem(name) not in kept]
    for name in _records_first(stale):
        place.delete(name)


def _stem(name: str) -> int:
    stem = name.partition(".")[0]
    return int(stem) if stem.isdecimal() else -1


def _records_first(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (not name.endswith(".json"), name))
