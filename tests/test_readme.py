"""The README's commands do what it says: each one is run as it is printed, on small data."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_server import free_port
from photos import class_folders, jpeg

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if line.partition("#")[0].strip()
]
SMALLER = {  # what is added to a command whose real work takes long; the rest is as printed
    "ensemble": ("--members", "1", "--set", "schedule.epochs=1"),
    "train": ("--set", "schedule.epochs=1"),
    "bench": ("--batch", "2", "--rounds", "1"),
    "demo": ("--members", "1"),
}


def septet(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs `septet WORDS` in a folder, with what makes it small."""
    command = [sys.executable, str(ROOT / "septet.py"), *words, *SMALLER.get(words[0], ())]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_environment())


def _environment() -> dict[str, str]:
    foreign = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {name: value for name, value in os.environ.items() if name not in foreign}


def test_there_are_commands_and_all_are_ours() -> None:
    """Nothing in a block of commands escapes these tests."""
    assert len(COMMANDS) >= 8
    assert {command.split()[0] for command in COMMANDS} == {"make", "septet", "mlflow"}


@pytest.mark.parametrize("stage", ["infra", "pipeline", "train", "ensemble"])
def test_every_module_has_its_line_in_the_tree(stage: str) -> None:
    """And no line names one that is gone."""
    there = {path.name for path in (ROOT / stage).glob("*.py")} - {"__init__.py"}
    assert sorted(_tree()[stage]) == sorted(there)


def _tree() -> dict[str, list[str]]:
    """The modules that the README's tree names, by folder."""
    found, folder = dict[str, list[str]](), ""
    for line in README.splitlines():
        if re.fullmatch(r"\w+/", line):
            folder = line[:-1]
        elif named := re.match(r"  (\w+\.py) +\S", line):
            found.setdefault(folder, []).append(named[1])
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_in_their_order(tmp_path: Path) -> None:
    """From a folder of photographs to predictions, each command on what the one before left."""
    class_folders(tmp_path / "photos" / "train", classes=3, images=14)
    class_folders(tmp_path / "photos" / "val", classes=3, images=4, first_seed=500)
    (tmp_path / "holiday.jpg").write_bytes(jpeg(900, 300, 280))
    for command in COMMANDS:
        program, *words = shlex.split(command)
        if program == "septet":
            done = septet(tmp_path, words)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            assert done.stdout, command
    assert (tmp_path / "seven" / "report" / "index.html").exists()
    assert (tmp_path / "photos-ensemble" / "ensemble.json").exists()
    (shown,) = [command for command in COMMANDS if command.startswith("mlflow ui")]
    _demand_an_answer(shown, tmp_path)


def _demand_an_answer(command: str, folder: Path) -> None:
    """Starts a server on a port of its own, waits until it listens, and ends all its processes."""
    port = free_port()
    program, *words = shlex.split(command)
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name(program)), *words, "--port", str(port)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        for _ in range(3000):  # five minutes; it takes ten seconds alone
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert server.poll() is None, command
            time.sleep(0.1)
        pytest.fail(f"{command} does not answer")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_make_demo_twice(tmp_path: Path) -> None:
    """`make demo` is `septet demo`: the second run makes nothing, and says the same."""
    assert "make demo" in COMMANDS and "\t$(BIN)/septet demo" in (ROOT / "Makefile").read_text()
    told = []
    for _ in range(2):
        done = septet(tmp_path, ["demo", "--json"])
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout.splitlines()[-1]))
    assert Path(told[0]["report"]).exists() and Path(told[0]["pulled"]).is_dir()
    assert told[0]["top1_error"] == told[1]["top1_error"] < 0.5
    assert told[1]["seconds"] < told[0]["seconds"] / 2
