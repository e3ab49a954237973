"""An ensemble in a bucket is the one on disk: trained, averaged, registered, pulled, used there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from photos import jpeg
from seven import make_ensemble, tiny_plan

from ensemble.assemble import assemble, read_finished
from ensemble.cli import evaluate, predict, report
from ensemble.manifest import read_ensemble
from ensemble.measure import measure_here
from ensemble.plan import EnsemblePlan, claim
from ensemble.registry import pull, register
from ensemble.report import write_report
from infra.storage import open_place
from infra.tracking import Tracking
from train.local import train_here

pytestmark = [pytest.mark.s3, pytest.mark.slow]


def said(command: object, *words: str) -> dict[str, object]:
    """A command's last line."""
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)  # type: ignore[arg-type]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_everything_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Same weights and errors as on disk; the report is rebuilt, the model pulled and used."""
    near = make_ensemble(tmp_path, members=2)
    there = open_place(f"{bucket}/dataset")
    for path in (tmp_path / "dataset").rglob("*.*"):
        there.write(path.relative_to(tmp_path / "dataset").as_posix(), path.read_bytes())
    plan = EnsemblePlan(
        dataset=f"{bucket}/dataset",
        out=f"{bucket}/seven",
        recipe=tiny_plan(tmp_path).recipe,
        members=2,
    )
    members = {number: train_here(plan.job(number)) for number in claim(plan).missing}
    files = {number: read_finished(open_place(plan.job(number).run))[1] for number in members}
    made, _ = assemble(plan, claim(plan), files, (), measure_here)
    write_report(open_place(plan.out))
    assert made.score == read_ensemble(open_place(near))[0].score
    for number in (1, 2):
        name = f"members/{number}/weights.safetensors"
        assert open_place(plan.out).read(name) == (near / name).read_bytes()

    page = open_place(plan.out).read("report/index.html")
    assert CliRunner().invoke(report, [plan.out], catch_exceptions=False).exit_code == 0
    assert open_place(plan.out).read("report/index.html") == page

    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    register(open_place(plan.out), tracking.run("seven", "in a bucket"), "tiny", "champion")
    pull("models:/tiny@champion", f"{bucket}/pulled", tracking)
    open_place(f"{bucket}/shown").write("holiday.jpg", jpeg(3))
    for model in (plan.out, f"{bucket}/pulled"):
        assert said(evaluate, model, plan.dataset)["top1_error"] == made.score.top1_error
        assert said(predict, model, f"{bucket}/shown/holiday.jpg") == {"predicted": 1, "refused": 0}
