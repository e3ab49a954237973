"""The front door: quick help, an example in every command, honest exit codes, a true README."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import septet

ROOT = Path(__file__).parents[1]
COMMANDS = septet.cli.list_commands(click.Context(septet.cli))  # type: ignore[attr-defined]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `septet ARGUMENTS` as a user would."""
    return subprocess.run(
        [sys.executable, str(ROOT / "septet.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_help_answers_at_once() -> None:
    """Under half a second: no heavy library is imported to print help (best of three)."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        shown = run("--help")
        times.append(time.perf_counter() - started)
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in COMMANDS)
    assert min(times) < 0.5, times


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """`septet NAME --help` says what it does and shows a line one can run."""
    shown = run(name, "--help")
    assert shown.returncode == 0
    assert f"septet {name}" in shown.stdout.split("Usage:", 1)[1].split("\n", 1)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    """A command that the README does not name is a command nobody finds."""
    assert re.search(rf"`?septet {name}\b", (ROOT / "README.md").read_text())


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("train",),
        ("train", "no-such-dataset", "run", "--recipe", "no-such-recipe"),
        ("preprocess", "no-such-folder", "out"),
        ("report", "no-such-ensemble"),
    ],
    ids=" ".join,
)
def test_a_usage_error_is_one_sentence_and_code_2(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """No traceback, nothing made, exit code 2."""
    shown = subprocess.run(
        [sys.executable, str(ROOT / "septet.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert shown.returncode == 2, shown.stderr
    assert "Traceback" not in shown.stderr
    assert shown.stderr.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "none", "run", "--recipe", "paper"),
        ("ensemble", "none", "out"),
        ("evaluate", "none", "none"),
        ("predict", "none", "none.jpg"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_said_before_torch_is_loaded(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """A tenth of a second, not the six that torch, torchvision and MLflow take."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import septet
sys.argv = {["septet", *arguments]!r}
try:
    septet.main()
except SystemExit as end:
    print(end.code, [name for name in ("torch", "ray", "mlflow") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.stdout == "2 []\n", shown.stderr
