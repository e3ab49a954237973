"""What a run shows while it goes: where it stands, and one row of fixed columns an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.progress import duration

Row = dict[str, Any]  # one epoch's metrics, as in metrics.jsonl


def _ignore(*_: object) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observer:
    """Where a run's news goes, and who may ask it to stop; called on replica 0 alone.

    `record` gets each epoch's row, `tick` (images done, images in all) after each update, `warn` a
    sentence about something that was survived. When `stop` becomes true, the run writes a
    checkpoint after the update in hand and ends. `leaving`, called on all replicas at the same
    updates, tells that this machine is about to be taken away: a checkpoint is written at once,
    and the run goes on as long as it may.
    """

    record: Callable[[Row], None] = _ignore
    tick: Callable[[int, int], None] = _ignore
    warn: Callable[[str], None] = _ignore
    stop: Callable[[], bool] = _never
    leaving: Callable[[], bool] = _never


QUIET = Observer()

HEADER = (
    f"{'member':>8} {'epoch':>7} {'lr':>8} {'train loss':>10} {'val top-1':>9} {'top-5':>7} "
    f"{'images/s':>8} {'elapsed':>9} {'ETA':>9}"
)


def line(name: str, row: Row, epochs: int) -> str:
    """An epoch's row under `HEADER`: errors in per cent, times as h:mm:ss."""
    left = row["seconds"] / row["epoch"] * (epochs - row["epoch"])
    return (
        f"{name[-8:]:>8} {row['epoch']:>3}/{epochs:<3} {row['lr']:>8.2g} "
        f"{row['train_loss']:>10.4f} "
        f"{100 * row['top1_error']:>8.2f}% {100 * row['top5_error']:>6.2f}% "
        f"{row['images_per_s']:>8,.0f} {duration(row['seconds']):>9} {duration(left):>9}"
    )


def position(done: int, total: int, *, epochs: int, batch: int) -> str:
    """The epoch and the update that `done` of the `total` images of all epochs have come to.

    An epoch's last batch is smaller where `batch` does not divide its images.
    """
    images = total // epochs
    steps = -(-images // batch)  # updates of an epoch
    over = max(done - 1, 0) // images
    step = over * steps - (over * images - done) // batch
    return f"epoch {over + 1}/{epochs}, step {step:,}/{epochs * steps:,}"
