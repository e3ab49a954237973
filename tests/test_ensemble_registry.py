"""Into MLflow's registry and out again: whole, checked, the same to the bit, without a pickle."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from photos import jpeg
from seven import copy, make_ensemble

from ensemble.manifest import NAME, read_ensemble
from ensemble.model import load_model, open_model
from ensemble.pictures import Named
from ensemble.predict import Prediction, predict
from ensemble.registry import pull, register
from infra.errors import DamageError, DataError, InputError
from infra.storage import open_place
from infra.tracking import Tracking, Version


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("registry"), members=2)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """The default kind of tracking: a SQLite file, artifacts beside it."""
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('local')}/mlflow.db")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """A real server."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield Tracking(address)


@pytest.fixture(scope="module")
def version(made: Path, local: Tracking) -> Version:
    """The ensemble, registered locally as tiny@champion."""
    run = local.run("ensemble", "the ensemble")
    return register(open_place(made), run, "tiny", "champion")


def _predictions(folder: Path) -> list[Prediction]:
    shown = [Named(name=str(seed), data=jpeg(seed)) for seed in range(4)]
    return list(predict(load_model(open_place(folder)), shown, num_views=10))


def _artifacts(local: Tracking) -> Path:
    root = Path(local.uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts/models"
    newest = max(root.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return newest / "artifacts"


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_pulled_predicts_the_same_bits(
    made: Path, local: Tracking, version: Version, tmp_path: Path
) -> None:
    """From the pulled folder alone; its files are the ensemble's, and pulling again is quiet."""
    pull("models:/tiny@champion", str(tmp_path / "pulled"), local)
    assert _predictions(tmp_path / "pulled") == _predictions(made)
    wanted = {
        name: data
        for name, data in _tree(made).items()
        if "checkpoints" not in name and "job.json" not in name and name != "plan.json"
    }
    assert _tree(tmp_path / "pulled") == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["pulled"]
    pull(version.uri, str(tmp_path / "pulled"), local)


@pytest.mark.slow
def test_the_same_through_a_real_server(made: Path, server: Tracking, tmp_path: Path) -> None:
    """Registered, found by alias, pulled, and used by its address."""
    run = server.run("ensemble", "the ensemble")
    version = register(open_place(made), run, "tiny", "champion")
    pull("models:/tiny@champion", str(tmp_path / "pulled"), server)
    assert _predictions(tmp_path / "pulled") == _predictions(made)
    with open_model(version.uri, tracking_uri=server.uri) as model:
        assert len(model.members) == 2
    assert register(open_place(made), run, "tiny", "champion") == version  # nothing new


def test_registering_again_makes_no_second_version(
    made: Path, local: Tracking, version: Version
) -> None:
    """The alias points at this very ensemble already."""
    run = local.run("ensemble", "the ensemble")
    assert register(open_place(made), run, "tiny", "champion") == version


def test_nothing_in_the_artifact_is_a_pickle(local: Tracking, version: Version) -> None:
    """No file, and no member of a zip, parses as one; nothing is named like one."""
    streams = {}
    for name, data in _tree(_artifacts(local)).items():
        streams[name] = data
        if name.endswith(".npz"):
            with zipfile.ZipFile(_artifacts(local) / name) as archive:
                streams |= {f"{name}:{inner}": archive.read(inner) for inner in archive.namelist()}
    assert "data/ensemble/members/1/weights.safetensors" in streams
    for name, data in streams.items():
        assert not name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")), name
        if name.endswith(".npy"):
            assert b"'O'" not in data[:200], name  # an array of objects would be a pickle
        assert not data.startswith(b"\x80"), name
    assert pickle.dumps(1).startswith(b"\x80")


HARMS = {
    "a flipped bit": ("data/ensemble/members/1/weights.safetensors", "flip"),
    "a cut file": ("data/ensemble/members/2/stats.npz", "cut"),
    "a missing file": ("data/ensemble/members/2/metrics.jsonl", "remove"),
    "an altered manifest": (f"data/ensemble/{NAME}", "flip"),
    "no manifest": (f"data/ensemble/{NAME}", "remove"),
    "an altered report": ("data/ensemble/report/index.html", "flip"),
    "a pickle among the members": ("data/ensemble/members/1/model.pkl", "add"),
    "a pickle beside MLflow's files": ("python_model.pkl", "add"),
    "a pickle among the code": ("code/infra/cache.pkl", "add"),
    "a surplus member": ("data/ensemble/members/3/member.json", "add"),
}


@pytest.mark.parametrize("name", HARMS)
def test_pull_refuses_a_harmed_artifact(
    made: Path, local: Tracking, version: Version, tmp_path: Path, name: str
) -> None:
    """One sentence, and not even a part of the folder appears."""
    path, harm = HARMS[name]
    file = _artifacts(local) / path
    before = file.read_bytes() if file.exists() else None
    try:
        if harm == "add":
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(pickle.dumps(print))
        elif harm == "remove":
            file.unlink()
        else:
            data = bytearray(before or b"")
            data[len(data) // 2] ^= 1
            file.write_bytes(data if harm == "flip" else data[:-7])
        with pytest.raises(DamageError):
            pull("models:/tiny@champion", str(tmp_path / "pulled"), local)
        assert list(tmp_path.iterdir()) == []
    finally:
        file.unlink(missing_ok=True)
        if before is not None:
            file.write_bytes(before)
    pull("models:/tiny@champion", str(tmp_path / "pulled"), local)


def test_pull_never_touches_what_is_there(
    local: Tracking, version: Version, tmp_path: Path
) -> None:
    """A folder with other things in it, a foreign model, a name that does not exist."""
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        pull("models:/tiny@champion", str(tmp_path), local)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    local.client.create_registered_model("foreign")
    local.client.create_model_version("foreign", "models:/tiny/1")
    with pytest.raises(DataError, match="not a Septet ensemble"):
        pull("models:/foreign/1", str(tmp_path / "new"), local)
    with pytest.raises(DataError, match="there is no"):
        pull("models:/tiny@nobody", str(tmp_path / "new"), local)


def test_a_harmed_ensemble_is_not_registered(made: Path, local: Tracking, tmp_path: Path) -> None:
    """What goes in is checked as what comes out is."""
    folder = copy(made, tmp_path / "copy")
    weights = folder / "members/1/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DamageError, match="weights"):
        register(open_place(folder), local.run("harmed", "harmed"), "harmed")


@pytest.mark.slow
def test_mlflow_serves_it_from_its_own_copy_of_the_code(
    made: Path, local: Tracking, version: Version, tmp_path: Path
) -> None:
    """`pyfunc.load_model` in a fresh process that forbids unpickling."""
    (tmp_path / "shown.jpg").write_bytes(jpeg(3))
    script = (
        "import json, sys, mlflow, pandas; from pathlib import Path\n"
        f"mlflow.set_tracking_uri({local.uri!r}); mlflow.set_registry_uri({local.uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/tiny@champion')\n"
        "rows = model.predict(pandas.DataFrame({'image': [Path('shown.jpg').read_bytes()]}))\n"
        "import ensemble; print(json.dumps([rows[0]['probability'], ensemble.__file__]))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    shares, source = json.loads(shown.stdout.splitlines()[-1])
    expected = list(predict(load_model(open_place(made)), [Named(name="", data=jpeg(3))]))[0]
    assert shares == [guess.probability for guess in expected.guesses]
    assert "/code/ensemble/" in source


def test_the_registered_version_names_the_digest(made: Path, version: Version) -> None:
    """The tag that everything else is checked against."""
    assert version.tags["septet.ensemble_sha256"] == read_ensemble(open_place(made))[1]
