"""What MLflow is told of an ensemble: a parent run, and one child run a member.

Figures are logged as they come and once more from the run folders at the end, each once; an epoch's
at the number of updates made by then. A server that is away for a while costs nothing: training
goes on, and the end catches up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ensemble.manifest import Ensemble, Failure
from ensemble.plan import Claim, EnsemblePlan
from infra.errors import RunError
from infra.storage import open_place
from infra.tracking import Run, Tracking
from train.member import Member
from train.sight import Row

PART = "septet.part"  # tag: "ensemble" or "member"


class Journal:
    """The runs of one ensemble, found again by its folder's id."""

    def __init__(
        self, tracking: Tracking, plan: EnsemblePlan, claim: Claim, warn: Callable[[str], None]
    ) -> None:
        self.plan, self.claim, self.warn = plan, claim, warn
        name = open_place(plan.out).uri.rpartition("/")[2]
        self.parent = tracking.run(name, claim.id)
        self.parent.tags({PART: "ensemble", "septet.out": plan.out})
        self._describe(self.parent, {"recipe": plan.recipe.to_dict(), "first_seed": plan.seed})
        self._runs: dict[int, Run] = {}
        self._open: dict[int, Run] = {}  # those that are not closed yet
        self._silent = False

    def row(self, number: int, row: Row) -> None:
        """An epoch of a member has ended; a server that does not answer is a warning, once."""
        try:
            self._member(number).epochs([row])
        except RunError as error:
            if not self._silent:
                self.warn(f"{error} Training goes on; the figures are logged at the end.")
            self._silent = True

    def member(self, number: int, member: Member, rows: Sequence[Row]) -> None:
        """A member is finished: whatever is not logged yet is, and its run is closed."""
        run = self._member(number)
        run.epochs(rows)
        run.metrics({f"final_{name}": value for name, value in member.metrics.items()})
        run.metrics({"training_seconds": member.seconds})
        run.tags(
            {
                "septet.weights_sha256": member.weights_sha256,
                "septet.version": str(member.code["version"]),
                "septet.commit": str(member.code["commit"]),
            }
        )
        self._finish(number, ok=True)

    def failed(self, failures: Iterable[Failure]) -> None:
        """Members failed: their runs say why."""
        for failure in failures:
            self._member(failure.number).tags({"septet.failure": failure.reason[:5000]})
            self._finish(failure.number, ok=False)

    def ensemble(self, made: Ensemble, sha256: str) -> None:
        """The measured ensemble: errors of each number of members averaged, as steps."""
        for size, score in enumerate(made.averaged, 1):
            values = {
                "averaged_top1_error": score.top1_error,
                "averaged_top5_error": score.top5_error,
            }
            self.parent.metrics(values, step=size)
        alone = [part.score for part in made.members]
        self.parent.metrics(
            {
                "top1_error": made.score.top1_error,
                "top5_error": made.score.top5_error,
                "loss": made.score.mean_loss,
                "members_mean_top1_error": sum(s.top1_error for s in alone) / len(alone),
                "members_mean_top5_error": sum(s.top5_error for s in alone) / len(alone),
                "members": len(alone),
            }
        )
        self.parent.tags({"septet.ensemble_sha256": sha256})

    def abandon(self) -> None:
        """Closes what is open as failed, as far as MLflow answers; a later run opens it again."""
        with contextlib.suppress(RunError):
            for run in (*self._open.values(), self.parent):
                run.finish(ok=False)

    def _member(self, number: int) -> Run:
        if number not in self._runs:
            run = self.parent.tracking.run(
                f"member {number}", f"{self.claim.id}/{number}", self.parent
            )
            job = self.plan.job(number)
            run.tags({PART: "member", "septet.run": job.run})
            self._describe(run, {"recipe": job.recipe.to_dict(), "seed": job.seed})
            self._runs[number] = self._open[number] = run
        return self._runs[number]

    def _finish(self, number: int, *, ok: bool) -> None:
        self._runs[number].finish(ok)
        self._open.pop(number, None)

    def _describe(self, run: Run, parameters: dict[str, Any]) -> None:
        run.params(parameters)
        splits = self.claim.dataset.splits
        run.dataset(
            open_place(self.plan.dataset).uri,
            self.claim.dataset_sha256,
            {name: split.samples for name, split in splits.items()},
        )
