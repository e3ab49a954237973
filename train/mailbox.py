"""What passes between a run's workers and its driver, wherever they are.

A plain object that the launcher makes an actor of. It imports nothing heavy, because the actor's
process does so before the workers may start.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.errors import RunError, SeptetError, StorageError
from train.sight import Row

TRIES = 4  # starts in a row without a new checkpoint before a run is given up


@dataclass(kw_only=True, slots=True)
class Mail:
    """What the workers said since the last look."""

    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: int = 0  # images done, of `total`
    total: int = 0
    begun: bool = False  # a worker has started


class Mailbox:
    """Between the driver and the workers; an actor on the driver's node."""

    def __init__(self) -> None:
        self.mail, self.stopping = Mail(), False
        self.failure: SeptetError | None = None
        self.starts, self.from_step = 0, -1

    def say(self, mail: Mail) -> bool:
        """Adds a worker's words; returns whether it should stop."""
        self.mail.rows += mail.rows
        self.mail.warnings += mail.warnings
        self.mail.done, self.mail.total = mail.done, mail.total
        return self.stopping

    def take(self, stop: bool) -> Mail:
        """All words since the last take; `stop` asks the workers to end."""
        self.stopping = self.stopping or stop
        mail, self.mail = self.mail, Mail(done=self.mail.done, total=self.mail.total)
        mail.begun = self.starts > 0
        return mail

    def begin(self, step: int) -> bool:
        """Replica 0 is about to start at a step; False when there is no sense in it.

        So a training that waits for room in the cluster ends by itself when nobody waits for it.
        """
        self.starts = self.starts + 1 if step == self.from_step else 1
        self.from_step = step
        return not self.over() and not self.stopping

    def fail(self, error: SeptetError) -> None:
        """Why a worker ended; the first error that another start would not cure stays."""
        if not self.failure or isinstance(self.failure, StorageError):
            self.failure = error

    def over(self) -> bool:
        """Whether the run is given up: nothing but storage's moods is worth another start."""
        cured = self.failure is None or isinstance(self.failure, StorageError)
        return not cured or self.starts > TRIES

    def verdict(self) -> SeptetError | None:
        """Why the run was given up; None when it was not."""
        if not self.over():
            return None
        return self.failure or RunError(
            f"the training died {TRIES} times without a new checkpoint; the last one is kept: "
            "look at Ray's worker logs, then run the same command again."
        )
