"""A small real ensemble for tests: members trained in this process, measured, reported."""

from __future__ import annotations

import shutil
from pathlib import Path

from handmade import tiny_recipe, write_dataset

from ensemble.assemble import assemble, read_finished
from ensemble.measure import measure_here
from ensemble.plan import EnsemblePlan, claim
from ensemble.report import write_report
from infra.storage import open_place
from train.local import train_here

NUM_VAL = 11  # handmade's validation pictures


def tiny_plan(folder: Path, *, members: int = 3, epochs: int = 2) -> EnsemblePlan:
    """A plan of tiny members on a handmade dataset of 3 classes below `folder`."""
    if not (folder / "dataset").exists():
        write_dataset(folder / "dataset")
    return EnsemblePlan(
        dataset=str(folder / "dataset"),
        out=str(folder / "ensemble"),
        recipe=tiny_recipe(schedule__epochs=epochs),
        members=members,
    )


def make_ensemble(folder: Path, *, members: int = 3, epochs: int = 2) -> Path:
    """Trains and assembles a tiny ensemble below `folder`; returns its own folder."""
    plan = tiny_plan(folder, members=members, epochs=epochs)
    claimed = claim(plan)
    for number in claimed.missing:
        train_here(plan.job(number))
    files = {
        number: read_finished(open_place(plan.job(number).run))[1]
        for number in range(1, members + 1)
    }
    assemble(plan, claim(plan), files, (), measure_here)
    write_report(open_place(plan.out))
    return Path(plan.out)


def copy(ensemble: Path, target: Path) -> Path:
    """A copy that a test may harm."""
    shutil.copytree(ensemble, target)
    return target
