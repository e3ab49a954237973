"""What MLflow is told: all of it, once, also when the server was away in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow_server import free_port, mlflow_server
from seven import make_ensemble, tiny_plan

from ensemble.build import read_rows
from ensemble.journal import Journal
from ensemble.manifest import Failure, read_ensemble
from ensemble.plan import claim
from infra.storage import open_place
from infra.tracking import Tracking
from train.member import read_member

FIGURES = {
    *("lr", "train_loss", "train_top1_error", "val_loss", "top1_error", "top5_error"),
    *("images_per_s", "data_wait", "gradient_norm_a", "gradient_norm_b"),
}


def test_every_figure_of_an_epoch_is_told_once_at_its_step(tmp_path: Path) -> None:
    """As it comes, again at the end, and by a later process; the step is the updates made."""
    make_ensemble(tmp_path, members=1)
    plan = tiny_plan(tmp_path, members=1)
    rows, member = read_rows(plan, 1), read_member(open_place(plan.job(1).run))
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db")
    for _ in range(2):
        journal = Journal(tracking, plan, claim(plan), print)
        for row in rows:
            journal.row(1, row)
        journal.member(1, member, rows)
    (run,) = tracking.client.search_runs([tracking.experiment], "attributes.run_name = 'member 1'")
    assert {*FIGURES, "seconds", "epoch"} == set(rows[0]) - {"step"} <= set(run.data.metrics)
    for name in set(rows[0]) - {"step"}:
        history = tracking.client.get_metric_history(run.info.run_id, name)
        told = [(point.step, point.value) for point in history]
        assert told == [(row["step"], row[name]) for row in rows], name
    assert [row["step"] for row in rows] == [4, 8]  # 26 pictures in batches of 8, twice


@pytest.mark.slow
def test_a_server_that_was_away_is_told_at_the_end(tmp_path: Path) -> None:
    """Rows meet a dead server: one warning, no error; afterwards nothing is missing or twice."""
    make_ensemble(tmp_path, members=2)
    plan, port = tiny_plan(tmp_path, members=2), free_port()
    rows, said = read_rows(plan, 1), list[str]()
    with mlflow_server(tmp_path, port) as address:
        tracking = Tracking(address)
        journal = Journal(tracking, plan, claim(plan), said.append)
        journal.row(1, rows[0])
    journal.row(1, rows[1])
    journal.row(2, rows[0])
    assert len(said) == 1 and "Training goes on" in said[0]
    with mlflow_server(tmp_path, port):
        for number in (1, 2):
            member = read_member(open_place(plan.job(number).run))
            journal.member(number, member, read_rows(plan, number))
        journal.ensemble(*read_ensemble(open_place(plan.out)))
        journal.failed([Failure(number=3, seed=3, reason="the loss is nan")])
        journal.abandon()
        runs = {
            run.info.run_name: run for run in tracking.client.search_runs([tracking.experiment])
        }
        assert {name: run.info.status for name, run in runs.items()} == {
            "member 1": "FINISHED",
            "member 2": "FINISHED",
            "member 3": "FAILED",
            "ensemble": "FAILED",
        }
        for name in ("member 1", "member 2"):
            history = tracking.client.get_metric_history(runs[name].info.run_id, "val_loss")
            assert [point.step for point in history] == [row["step"] for row in rows], name
            (given,) = runs[name].inputs.dataset_inputs
            assert {tag.key: tag.value for tag in given.tags}["sha256"] == claim(
                plan
            ).dataset_sha256
        assert runs["member 3"].data.tags["septet.failure"] == "the loss is nan"
        assert runs["ensemble"].data.metrics["members"] == 2
