"""MLflow: runs are found again, figures are logged once, and failures are one sentence."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from infra.errors import DataError, InputError, RunError
from infra.tracking import Tracking, flatten

ROWS = [
    {"epoch": epoch, "step": 40 * epoch, "top1_error": 1 / epoch, "note": "text"}
    for epoch in (1, 2, 3)
]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A fresh local database."""
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db")


def test_a_run_is_found_again_by_its_key(tracking: Tracking) -> None:
    """The same key, the same run; a child says whose it is."""
    parent = tracking.run("seven", "key-1")
    child = tracking.run("member 1", "key-1/1", parent)
    assert tracking.run("seven", "key-1").id == parent.id
    assert tracking.run("member 1", "key-1/1", parent).id == child.id
    tags = tracking.client.get_run(child.id).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert tracking.client.get_run(parent.id).info.status == "RUNNING"
    parent.finish(ok=False)
    assert tracking.client.get_run(parent.id).info.status == "FAILED"


def test_epochs_are_logged_once_however_often_they_are_told(tracking: Tracking) -> None:
    """At their last step, by the same object and by that of a later process; new ones are added."""
    run = tracking.run("member", "key-2")
    run.epochs(ROWS[:1])
    run.epochs(ROWS[:2])
    later = tracking.run("member", "key-2")
    later.epochs(ROWS)
    later.epochs(ROWS)
    history = tracking.client.get_metric_history(run.id, "top1_error")
    assert [(point.step, point.value) for point in history] == [(40, 1.0), (80, 0.5), (120, 1 / 3)]
    assert set(tracking.client.get_run(run.id).data.metrics) == {"epoch", "top1_error"}


def test_a_row_is_logged_whole_or_not_at_all(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are told at once: a batch that fails leaves no row in halves."""
    rows = [{"step": at, **{f"f{n:02}": n for n in range(13)}, "top1_error": 0} for at in range(90)]
    sent: list[int] = []
    log = tracking.client.log_batch

    def once(run_id: str, metrics: list[Any]) -> None:
        if sent:
            raise OSError("the server is away")
        sent.append(len(metrics))
        log(run_id, metrics=metrics)

    run = tracking.run("member", "key-5")
    with monkeypatch.context() as patch, pytest.raises(RunError, match="away"):
        patch.setattr(tracking.client, "log_batch", once)
        run.epochs(rows)
    assert 0 < sent[0] <= 1000 and sent[0] % 14 == 0
    run.epochs(rows)
    for name in ("f00", "f12", "top1_error"):
        history = tracking.client.get_metric_history(run.id, name)
        assert [point.step for point in history] == list(range(90)), name


def test_a_figure_is_logged_again_only_when_it_changed(tracking: Tracking) -> None:
    """A retried member changes the ensemble's figures; a mere re-run does not."""
    run = tracking.run("ensemble", "key-3")
    for value in (0.4, 0.4, 0.3, 0.3):
        run.metrics({"averaged": value}, step=2)
    history = tracking.client.get_metric_history(run.id, "averaged")
    assert [point.value for point in history] == [0.4, 0.3]
    assert tracking.client.get_run(run.id).data.metrics == {"averaged": 0.3}


def test_parameters_and_datasets_may_be_told_again(tracking: Tracking) -> None:
    """More parameters than one call takes; the dataset's whole digest is kept."""
    run = tracking.run("ensemble", "key-4")
    many = {"recipe": {f"value{number:03}": number for number in range(230)}}
    for _ in range(2):
        run.params(many)
        run.dataset("s3://bucket/photos", "ab" * 32, {"train": 1180})
    found = tracking.client.get_run(run.id)
    assert len(found.data.params) == 230
    (given,) = found.inputs.dataset_inputs
    assert given.dataset.name == "photos" and given.dataset.digest == ("ab" * 32)[:36]
    assert {tag.key: tag.value for tag in given.tags}["sha256"] == "ab" * 32


def test_nested_values_become_dotted_names() -> None:
    """Tuples stay readable."""
    nested = {"layers": {"conv1": {"after": ("relu", "pool"), "std": 0.01}}, "name": "paper"}
    assert dict(flatten(nested)) == {
        "layers.conv1.after": '["relu", "pool"]',
        "layers.conv1.std": "0.01",
        "name": "paper",
    }


def test_what_is_not_registered_is_an_input_error(tracking: Tracking) -> None:
    """A name that is none, a model and an alias that are not there."""
    for uri in ("models:/", "models:/x", "photos@champion", "models:/x/latest"):
        with pytest.raises(InputError, match="models:/NAME@ALIAS"):
            tracking.version(uri)
    for uri in ("models:/none@champion", "models:/none/1"):
        with pytest.raises(DataError, match=uri):
            tracking.version(uri)


def test_what_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    """A path instead of an address, a file that is no database, an absent server."""
    with pytest.raises(InputError, match="sqlite:///FILE"):
        Tracking("mlflow.db")
    (tmp_path / "no.db").write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(RunError, match=r"no\.db"):
        Tracking(f"sqlite:///{tmp_path}/no.db")


@pytest.mark.slow
def test_an_absent_server_is_told_within_half_a_minute() -> None:
    """Not after MLflow's own four minutes."""
    with pytest.raises(RunError, match="does not answer"):
        Tracking("http://127.0.0.1:9")


def test_the_default_is_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./mlflow.db`, artifacts beside it; the environment comes before that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking = Tracking()
    experiment = tracking.client.get_experiment(tracking.experiment)
    assert experiment.artifact_location == (tmp_path / "mlflow-artifacts").as_uri()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from experiments").fetchone()[0] >= 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert Tracking().uri.endswith("other.db")
