"""`septet train` as a user runs it: recipes shown, mistakes told in a sentence, signals obeyed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from handmade import tiny_recipe, write_dataset

from infra import progress
from infra.errors import ConfigError, DataError
from infra.storage import open_place
from train.checkpoint import steps
from train.cli import describe, train
from train.job import Job
from train.local import train_here
from train.sight import position

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    raw, path = tiny_recipe().to_dict(), tmp_path / "tiny.toml"
    tables = [f"layers.{name}" for name in raw["layers"]]
    tables += ["network", "augment", "optimizer", "schedule", "compute"]
    text = f'name = "{raw["name"]}"\nsummary = "{raw["summary"]}"\n'
    for table in tables:
        parent, _, child = table.partition(".")
        values = raw[parent][child] if child else raw[parent]
        kept = {key: value for key, value in values.items() if value is not None}
        text += f"[{table}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in kept.items())
    path.write_text(text)
    return path


def test_the_resolved_recipe_is_shown_without_data() -> None:
    """With what --set replaced, and nothing else."""
    words = ["nowhere", "nowhere", "--recipe", "paper", "--print-recipe"]
    plain = json.loads(CliRunner().invoke(train, words).output)
    changed = json.loads(CliRunner().invoke(train, [*words, "--set", "optimizer.lr=0.5"]).output)
    assert changed["optimizer"].pop("lr") == 0.5 and plain["optimizer"].pop("lr") == 0.01
    assert changed == plain


def test_mistakes_are_named(tmp_path: Path, tiny: Path) -> None:
    """An unknown recipe, a key that is none, and a dataset that is not there."""
    for words, error, text in (
        (["a", "b", "--recipe", "papr"], ConfigError, "there is no recipe 'papr'"),
        (
            ["a", "b", "--recipe", str(tiny), "--set", "optimizer.rate=1"],
            ConfigError,
            "no key 'rate'",
        ),
        (
            [str(tmp_path), str(tmp_path / "run"), "--recipe", str(tiny), "--local"],
            DataError,
            "is not a complete dataset",
        ),
    ):
        raised = CliRunner().invoke(train, words).exception
        assert isinstance(raised, error) and text in str(raised)


def test_help_has_an_example() -> None:
    """That can be copied."""
    assert "Example: septet train " in CliRunner().invoke(train, ["--help"]).output
    assert "Example: septet describe " in CliRunner().invoke(describe, ["--help"]).output


def test_a_recipe_is_described_in_words_and_in_json() -> None:
    """With the paper's totals, and what a changed value departs from."""
    assert "in all 60,965,224 parameters" in CliRunner().invoke(describe, ["paper"]).output
    words = ["paper", "--set", "optimizer.lr=0.5", "--json"]
    told = json.loads(CliRunner().invoke(describe, words).output)
    assert told["totals"]["parameters"] == 60_965_224
    assert told["departures"] == {"optimizer.lr": {"paper": 0.01, "recipe": 0.5}}


def test_a_position_is_the_epoch_and_the_update_in_hand() -> None:
    """Counted along: 26 images in batches of 8, the last of 2, three times."""
    done, told = 0, [position(0, 78, epochs=3, batch=8)]
    for _ in range(3):
        for images in (8, 8, 8, 2):
            done += images
            told.append(position(done, 78, epochs=3, batch=8))
    assert told[0] == "epoch 1/3, step 0/12"
    assert told[1:] == [f"epoch {(at - 1) // 4 + 1}/3, step {at}/12" for at in range(1, 13)]


def test_progress_tells_where_a_run_stands(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch, step, images a second, time left, and the last errors as soon as there are any."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    words = [str(write_dataset(tmp_path / "data")), str(tmp_path / "run"), "--recipe", str(tiny)]
    shown = CliRunner().invoke(train, [*words, "--local", "--device", "cpu"]).stderr.splitlines()
    lines = [text for text in shown if text.startswith("train: ")]
    assert re.fullmatch(r".* images/s, ETA 0:\d\d, epoch 1/3, step 1/12", lines[1])
    assert re.fullmatch(
        r"train: 78 of 78 images \(100 %\), [\d,]+ images/s, ETA 0:00, epoch 3/3, step 12/12, "
        r"errors \d+\.\d % and 0\.0 %",
        lines[-1],
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_and_the_same_command_goes_on(
    tmp_path: Path, tiny: Path, number: signal.Signals
) -> None:
    """Exit 130 with a checkpoint; then the run ends in the bits of one never stopped."""
    dataset, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    recipe, epochs = tiny_recipe(schedule__epochs=60), "schedule.epochs=60"
    words = ["train", str(dataset), str(run), "--recipe", str(tiny), "--set", epochs]
    command = [sys.executable, "-m", "septet", *words, "--local", "--json", "--device", "cpu"]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not (run / "metrics.jsonl").exists():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    first.send_signal(number)
    _, told = first.communicate(timeout=60)
    assert first.returncode == 130 and b"run the same command again" in told
    assert steps(open_place(run).child("checkpoints")) and not (run / "member.json").exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(again.stdout)
    whole = train_here(Job(dataset=str(dataset), run=str(tmp_path / "whole"), recipe=recipe))
    assert result["weights_sha256"] == whole.weights_sha256
    assert "already" in again.stderr and "top-1" in again.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_killed_driver_s_run_is_continued_by_the_same_command(tmp_path: Path, tiny: Path) -> None:
    """SIGKILL of the command, and with it of its Ray: the second one ends in the same bits."""
    dataset, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    recipe = tiny_recipe(schedule__epochs=30)
    words = ["train", str(dataset), str(run), "--recipe", str(tiny), "--device", "cpu"]
    words += ["--set", "schedule.epochs=30", "--checkpoint-minutes", "0", "--json"]
    command = [sys.executable, "-m", "septet", *words]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not steps(open_place(run).child("checkpoints")):
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    first.kill()
    first.communicate()
    assert not (run / "member.json").exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    whole = train_here(Job(dataset=str(dataset), run=str(tmp_path / "whole"), recipe=recipe))
    assert json.loads(again.stdout)["weights_sha256"] == whole.weights_sha256
