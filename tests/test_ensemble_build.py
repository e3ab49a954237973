"""The whole command on a real Ray: seven made the same as alone, failures kept apart, re-runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from handmade import tiny_recipe
from seven import make_ensemble, tiny_plan

from ensemble.manifest import read_ensemble
from ensemble.plan import EnsemblePlan, claim
from infra.errors import ConfigError, DataError
from infra.storage import open_place
from infra.tracking import Tracking
from septet import cli

ROOT = Path(__file__).parents[1]


def septet(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a folder, on a local Ray of two cores."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, str(ROOT / "septet.py"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
        check=False,
    )


def _write_recipe(folder: Path) -> Path:
    """The tiny recipe of the tests as a file."""
    lines = []
    for name, value in tiny_recipe(schedule__epochs=2).to_dict().items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {json.dumps(value)}")
    for table, values in tiny_recipe(schedule__epochs=2).to_dict().items():
        if isinstance(values, dict) and table != "layers":
            lines.append(f"[{table}]")
            lines += [f"{k} = {json.dumps(v)}" for k, v in values.items() if v is not None]
        elif isinstance(values, dict):
            for layer, row in values.items():
                lines.append(f"[layers.{layer}]")
                lines += [f"{k} = {json.dumps(v)}" for k, v in row.items() if v is not None]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(3000)  # three commands, each starting Ray and MLflow; over a minute alone
def test_a_failed_member_is_named_and_the_rest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Member 2's checkpoint is damaged: 1 makes the ensemble; cured, both do.

    On the way: members on Ray are those of the plain loop, to the bit; MLflow has each epoch once
    however often the command runs; and the process ends although credentials of the kind that
    hangs pyarrow at exit are set.
    """
    plain = make_ensemble(tmp_path / "plain", members=2)
    dataset = str(tmp_path / "plain" / "dataset")
    recipe = _write_recipe(tmp_path)
    (tmp_path / "token").write_text("token")
    command = ["ensemble", dataset, "seven", "--recipe", str(recipe), "--members", "2", "--json"]
    settings = {
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/none",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
    }
    harmed = tmp_path / "seven/members/2/checkpoints"
    harmed.mkdir(parents=True)
    (harmed / "000000004.json").write_text("{}")
    first = septet(tmp_path, *command, **settings)
    assert first.returncode == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "member 2 of 'seven' failed" in first.stderr.splitlines()[-1]
    said = json.loads(first.stdout.splitlines()[-1])
    assert (said["members"], said["failed"]) == ([1], [2])
    ensemble, _ = read_ensemble(open_place(tmp_path / "seven"))
    assert [failure.number for failure in ensemble.failed] == [2]
    assert "checkpoint" in ensemble.failed[0].reason
    assert "did not finish" in (tmp_path / "seven/report/index.html").read_text()

    shutil.rmtree(harmed)
    again = septet(tmp_path, *command, "--register", "tiny", "--alias", "champion", **settings)
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout.splitlines()[-1])
    assert (said["members"], said["failed"]) == ([1, 2], [])
    _demand_equal(tmp_path / "seven", plain)

    before = (tmp_path / "seven/ensemble.json").read_bytes()
    third = septet(tmp_path, *command, "--register", "tiny", "--alias", "champion")
    assert third.returncode == 0, third.stderr
    assert json.loads(third.stdout.splitlines()[-1]) == said  # no second version either
    assert (tmp_path / "seven/ensemble.json").read_bytes() == before
    _demand_each_epoch_once(Tracking(f"sqlite:///{tmp_path}/mlflow.db"))

    monkeypatch.chdir(tmp_path)
    _demand_the_error_of_each_copy(dataset, f"sqlite:///{tmp_path}/mlflow.db", said["top1_error"])


def _demand_the_error_of_each_copy(dataset: str, tracking: str, top1_error: float) -> None:
    """Pulled, where it was made and from the registry; in this process: none of it starts a Ray."""
    asking = ["--tracking-uri", tracking]  # MLflow remembers the place of an address without a path
    pulled = CliRunner().invoke(cli, ["pull", "models:/tiny@champion", "pulled", *asking])
    assert pulled.exit_code == 0, pulled.output
    for model in ("pulled", "seven", "models:/tiny@champion"):
        shown = CliRunner().invoke(cli, ["evaluate", model, dataset, "--json", *asking])
        assert shown.exit_code == 0, shown.output
        assert json.loads(shown.stdout)["top1_error"] == top1_error


def _demand_equal(folder: Path, plain: Path) -> None:
    """Both ensembles have the same weights, to the bit, and the same errors."""
    for number in (1, 2):
        name = f"members/{number}/weights.safetensors"
        assert (folder / name).read_bytes() == (plain / name).read_bytes()
    alone, _ = read_ensemble(open_place(plain))
    together, _ = read_ensemble(open_place(folder))
    assert [s.top1_wrong for s in together.averaged] == [s.top1_wrong for s in alone.averaged]


def _demand_each_epoch_once(tracking: Tracking) -> None:
    runs = {run.info.run_name: run for run in tracking.client.search_runs([tracking.experiment])}
    assert set(runs) == {"seven", "member 1", "member 2"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.inputs.dataset_inputs, name
        if name != "seven":
            history = tracking.client.get_metric_history(run.info.run_id, "top1_error")
            assert [point.step for point in history] == [4, 8], name  # updates made by then
            assert run.data.tags["mlflow.parentRunId"] == runs["seven"].info.run_id
            assert run.data.params["recipe.optimizer.batch"] == "8"
    sizes = tracking.client.get_metric_history(runs["seven"].info.run_id, "averaged_top1_error")
    assert {point.step for point in sizes} == {1, 2}


def test_a_folder_of_another_plan_is_refused(tmp_path: Path) -> None:
    """Another recipe or seed in the same folder; more members are welcome."""
    plan = tiny_plan(tmp_path)
    first = claim(plan)
    assert (first.finished, first.missing) == ((), (1, 2, 3))
    assert claim(tiny_plan(tmp_path, members=5)).id == first.id
    with pytest.raises(ConfigError, match=r"schedule\.epochs"):
        claim(tiny_plan(tmp_path, epochs=9))
    other = EnsemblePlan(dataset=plan.dataset, out=plan.out, recipe=plan.recipe, seed=8)
    with pytest.raises(ConfigError, match="seed"):
        claim(other)


def test_an_absent_dataset_claims_nothing(tmp_path: Path) -> None:
    """Nothing is made before the dataset is known to be there."""
    plan = EnsemblePlan(
        dataset=str(tmp_path / "none"), out=str(tmp_path / "out"), recipe=tiny_recipe()
    )
    with pytest.raises(DataError, match="complete dataset"):
        claim(plan)
    assert list(tmp_path.iterdir()) == []


def test_usage_errors_come_before_anything_is_made(tmp_path: Path) -> None:
    """Exit code 2, one sentence, no database, no folder."""
    for arguments in (
        ("ensemble", "none", "out", "--recipe", "paper"),
        ("ensemble", "none", "out", "--alias", "champion"),
        ("predict", "none", "none.jpg"),
        ("evaluate", "none", "none"),
        ("pull", "photos", "out", "--tracking-uri", "nowhere"),
    ):
        shown = septet(tmp_path, *arguments)
        assert shown.returncode == 2, (arguments, shown.stderr)
        assert len(shown.stderr.splitlines()) == 1 and "Traceback" not in shown.stderr
        assert list(tmp_path.iterdir()) == [], arguments
