"""Progress of long work: a bar with a rate and an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY_S = 10.0  # plain lines, where there is no terminal


class Progress:
    """Counts `total` units of work; `with Progress("preprocess", 1000, "images") as progress: ...`.

    Writes to stderr, so that stdout holds results alone. `already` units were done by an earlier
    run: they count towards the total but not towards the rate.
    """

    def __init__(self, what: str, total: int, unit: str, *, already: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.already = already, already
        self.note = ""
        self.started = self._last_line = time.monotonic()
        self._bar = _terminal_bar(what, total, unit, already) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        elif self.already:
            self._print(
                f"{self.what}: {self.already:,} of {self.total:,} {self.unit} are there already"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None and self.done > self.already:
            self._print(self.line())

    def advance(self, count: int, note: str = "") -> None:
        """`count` more units are done; `note` (e.g. '3 rejected') is shown with them."""
        self.done += count
        self.note = note
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0], completed=self.done, rate=f"{self.rate():,.0f}", note=note
            )
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._print(self.line())

    def rate(self) -> float:
        """Units a second since the start of this run."""
        return (self.done - self.already) / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """The plain line: done of total, share, rate, time left, note."""
        left = (self.total - self.done) / self.rate() if self.done > self.already else 0.0
        share = 100 * self.done / max(self.total, 1)
        text = (
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit} ({share:.0f} %), "
            f"{self.rate():,.0f} {self.unit}/s, ETA {duration(left)}"
        )
        return f"{text}, {self.note}" if self.note else text

    def _print(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """`75` -> `1:15`, `3700` -> `1:01:40`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _terminal_bar(what: str, total: int, unit: str, already: int):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    class TwoLines(Bar):
        """The note below the bar: side by side they do not fit into 80 columns."""

        def get_renderables(self):  # type: ignore[no-untyped-def]
            yield self.make_tasks_table(self.tasks)
            yield from (task.fields["note"] for task in self.tasks if task.fields["note"])

    bar = TwoLines(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} " + unit + "/s, ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(what, total=total, completed=already, rate="-", note="")
    return bar
