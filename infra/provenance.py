"""Where a result came from: our version and commit, the libraries' versions, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pyarrow",
    "safetensors",
    "pillow",
    "webdataset",
    "ray",
    "mlflow",
    "boto3",
)
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Septet itself: `commit` and `dirty` are None where there is no git checkout."""

    version: str
    commit: str | None
    dirty: bool | None


def code() -> Code:
    """The running version of Septet; `dirty` is True when tracked files differ from the commit."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return Code(
        version=version("septet") or "unknown",
        commit=commit,
        dirty=None if changed is None else bool(changed),
    )


def version(package: str) -> str | None:
    """The installed version of a distribution, None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def libraries() -> dict[str, str]:
    """Installed versions of the libraries that touch numbers or bytes, and of Python."""
    found = {name: version(name) for name in LIBRARIES}
    python = platform.python_version()
    return {"python": python, **{name: text for name, text in found.items() if text}}


def host() -> dict[str, str | int]:
    """This machine: name, system, processor architecture and cores that we may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": cores,
    }


def _git(*arguments: str) -> str | None:
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
