"""The rules of the house, held by a test: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("infra", "pipeline", "train", "ensemble")  # each may import itself and those before it
FILES = sorted(path for stage in (*STAGES, "tests") for path in (ROOT / stage).rglob("*.py")) + [
    ROOT / "septet.py"
]
FILE_LINES = 400
FUNCTION_LINES = 50
LOOP_LINES = 80  # train.fit.fit alone: one linear story
FORBIDDEN_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "base.py", "misc.py"}
ONLY_IN = {  # a library and the only files of ours that may import it
    "mlflow": {"infra/tracking.py"},
    "boto3": {"infra/s3.py"},
    "botocore": {"infra/s3.py"},
    "pickle": set(),
    "cloudpickle": set(),
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    """No file over 400 lines, no function over 50, but for the one training loop."""
    assert len(path.read_text().splitlines()) <= FILE_LINES
    for function in _functions(path):
        allowed = (
            LOOP_LINES
            if (_name(path), function.name) == ("train/fit.py", "fit")
            else FUNCTION_LINES
        )
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= allowed, (
            f"{_name(path)}:{function.lineno} {function.name} has {lines} lines"
        )


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_is_one_noun(path: Path) -> None:
    """No drawer files."""
    assert path.name not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "tests"], ids=_name)
def test_imports_look_upstream(path: Path) -> None:
    """infra <- pipeline <- train <- ensemble <- septet.py; nobody imports a cli.py."""
    stage = path.relative_to(ROOT).parts[0]
    allowed = STAGES[: STAGES.index(stage) + 1] if stage in STAGES else STAGES
    for name in _imports(path):
        head = name.split(".")[0]
        if head in STAGES:
            assert head in allowed, f"{_name(path)} imports {name}"
            assert not name.endswith(".cli"), f"{_name(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name != "tests"], ids=_name)
def test_the_world_is_touched_in_named_files(path: Path) -> None:
    """MLflow, S3 and Ray each have their file; nothing unpickles."""
    for name in _imports(path):
        head = name.split(".")[0]
        if head in ONLY_IN:
            assert _name(path) in ONLY_IN[head], f"{_name(path)} imports {name}"
        if head == "ray" and _name(path).startswith(("pipeline/", "train/")):
            assert _name(path) == "train/launch.py", f"{_name(path)} imports {name}"


def test_no_test_folder_is_a_package() -> None:
    """A `tests/train/__init__.py` would shadow `train`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("stage", ["septet", "pipeline.cli", "train.cli", "ensemble.cli"])
def test_a_cli_imports_nothing_heavy(stage: str) -> None:
    """Help must not wait for torch, Ray, MLflow, pyarrow or numpy."""
    heavy = [
        "torch",
        "ray",
        "mlflow",
        "pyarrow",
        "numpy",
        "boto3",
        "matplotlib",
        "pandas",
        "PIL",
        "rich",
    ]
    code = f"import sys, {stage}; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
