"""From a dataset to a measured ensemble with its report: trains what is missing, then averages.

Everything is resumed by running it again: finished members are kept, begun ones go on from their
checkpoints, failed ones are tried again, and an ensemble that is up to date is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ensemble.assemble import assemble, read_finished
from ensemble.average import Scores, figures
from ensemble.examples import Example
from ensemble.journal import Journal
from ensemble.manifest import Ensemble, Failure
from ensemble.measure import Request, measure
from ensemble.members import Listener, train_members
from ensemble.plan import Claim, EnsemblePlan, claim
from ensemble.report import write_report
from infra.errors import RunError, SeptetError
from infra.manifest import DatasetManifest
from infra.progress import Progress
from infra.storage import open_place
from infra.tracking import Run, Tracking
from train.member import Member
from train.sight import HEADER, Row, line


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What came of it; `run` is the parent run in MLflow, still open."""

    ensemble: Ensemble
    sha256: str  # of ensemble.json
    run: Run

    def figures(self) -> dict[str, Any]:
        """The result as plain values; errors are shares from 0 to 1."""
        made = self.ensemble
        return figures(made.score) | {
            "sha256": self.sha256,
            "members": [part.number for part in made.members],
            "failed": [failure.number for failure in made.failed],
            "members_top1_error": [part.score.top1_error for part in made.members],
        }


def train_ensemble(
    plan: EnsemblePlan,
    tracking: Tracking,
    *,
    show: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Trains the missing members on the connected Ray, measures and reports the ensemble.

    The ensemble is made of the members that finished; the others are named in its `failed`.
    `show` gets lines for people. Raises `RunError` when no member finished, `KeyboardInterrupt`
    when asked to stop (after each running member has written a checkpoint).
    """
    claimed = claim(plan)
    journal = Journal(tracking, plan, claimed, show)
    try:
        return _train_ensemble(plan, claimed, journal, show, stop)
    except (SeptetError, KeyboardInterrupt):
        journal.abandon()
        raise


def _train_ensemble(
    plan: EnsemblePlan,
    claimed: Claim,
    journal: Journal,
    show: Callable[[str], None],
    stop: Callable[[], bool],
) -> Trained:
    failures = _Training(plan, claimed, journal, show, stop).train()
    members, files = {}, {}
    for number in range(1, plan.members + 1):
        if number in failures:
            continue
        try:
            members[number], files[number] = read_finished(open_place(plan.job(number).run))
        except SeptetError as error:
            failures[number] = Failure(number=number, seed=plan.job(number).seed, reason=str(error))
            show(f"member {number} is left out: {error}")
    failed = tuple(failures[number] for number in sorted(failures))
    if not members:
        journal.failed(failed)
        raise RunError(f"no member of '{plan.out}' finished; member 1: {failed[0].reason}")
    made, digest = assemble(plan, claimed, files, failed, lambda asked: _measure(asked, show))
    write_report(open_place(plan.out))
    journal.failed(failed)
    for number, member in members.items():
        journal.member(number, member, read_rows(plan, number))
    journal.ensemble(made, digest)
    return Trained(ensemble=made, sha256=digest, run=journal.parent)


def read_rows(plan: EnsemblePlan, number: int) -> list[Row]:
    """The epochs of a member, oldest first, from its `metrics.jsonl`."""
    place = open_place(plan.job(number).run)
    return [json.loads(text) for text in place.read("metrics.jsonl").splitlines()]


def _measure(request: Request, show: Callable[[str], None]) -> tuple[Scores, list[Example]]:
    num_val = DatasetManifest.read(open_place(request.dataset))[0].splits["val"].samples
    show(f"measuring {len(request.runs)} members and their averages on {num_val:,} pictures")
    with Progress("measure", num_val, "images") as progress:
        return measure(request, progress.advance)


class _Training:
    """The missing members in training: shows rows and a bar, tells the journal."""

    def __init__(
        self,
        plan: EnsemblePlan,
        claimed: Claim,
        journal: Journal,
        show: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        self.plan, self.claimed, self.journal, self.show = plan, claimed, journal, show
        self.failures: dict[int, Failure] = {}
        self.listener = Listener(
            row=self._row,
            progress=self._progress,
            warn=show,
            finished=self._finished,
            failed=self._failed,
            stop=stop,
        )
        self._done: dict[int, int] = {}
        self._bar: Progress | None = None
        self._rows = 0

    def train(self) -> dict[int, Failure]:
        """Trains what is missing; the failures by member number."""
        if self.claimed.finished:
            numbers = ", ".join(map(str, self.claimed.finished))
            self.show(f"finished already: member {numbers} of {self.plan.members}")
        if not self.claimed.missing:
            return {}
        try:
            train_members(self.plan, self.claimed.missing, self.listener)
        finally:
            if self._bar:
                self._bar.__exit__(None, None, None)
        return self.failures

    def _row(self, number: int, row: Row) -> None:
        if not self._rows:
            self.show(HEADER)
        self._rows += 1
        self.show(line(f"{number}", row, self.plan.recipe.schedule.epochs))
        self.journal.row(number, row)

    def _progress(self, number: int, done: int, total: int) -> None:
        if self._bar is None:
            whole = total * len(self.claimed.missing)
            self._bar = Progress("train", whole, "images").__enter__()
        if number not in self._done:  # what an earlier run did counts, but not for the rate
            self._bar.already += done
            self._bar.done += done
            self._done[number] = done
        self._bar.advance(done - self._done[number])
        self._done[number] = done

    def _finished(self, number: int, member: Member) -> None:
        error = 100 * member.metrics["top1_error"]
        self.show(f"member {number} is finished: top-1 error {error:.2f} %")

    def _failed(self, failure: Failure) -> None:
        self.failures[failure.number] = failure
        self.show(f"member {failure.number} failed: {failure.reason}")
