"""An ensemble's way into MLflow's registry and out again.

What goes in is the ensemble's folder without checkpoints, as the data of a model that MLflow can
serve. The digest of `ensemble.json`, which names the digest of every other file, is a tag of the
registered version: what comes out is compared with it, file by file, before it is put in place.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import ensemble
import infra
import pipeline
import train
from ensemble import serving
from ensemble.manifest import NAME, PAGE, Ensemble, check_files, read_ensemble
from infra import provenance
from infra.errors import DamageError, DataError, InputError, StorageError
from infra.manifest import read_checked, sha256
from infra.storage import LocalPlace, Place, check_name, open_place
from infra.tracking import Run, ServedModel, Tracking, Version

DIGEST_TAG, PAGE_TAG = "septet.ensemble_sha256", "septet.report_sha256"
FOLDER = "ensemble"  # of the data inside the registered model
WRAPPER = ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")  # MLflow's own files
NEEDED = ("torch", "torchvision", "numpy", "pillow", "pyarrow", "safetensors", "mlflow")


def register(place: Place, run: Run, name: str, alias: str | None = None) -> Version:
    """Registers the ensemble at `place` under `name`, and points the alias at it.

    When the alias points at this very ensemble already, nothing is registered again. Raises
    `DamageError` when a file of the ensemble is not what its digest says.
    """
    made, digest = read_ensemble(place)
    page = place.read(PAGE)
    tags = {DIGEST_TAG: digest, PAGE_TAG: sha256(page)}
    tracking = run.tracking
    if alias and (found := _registered(tracking, name, alias)) and found.tags == tags:
        return found
    with tempfile.TemporaryDirectory(prefix="septet-") as folder:
        staged = LocalPlace(Path(folder) / FOLDER)
        _copy(place, staged, [*made.files, NAME, PAGE])
        check_files(staged, made)
        version = tracking.register(run, staged.root, _served(), name, tags)
    if alias:
        tracking.set_alias(version, alias)
    return version


def pull(uri: str, target: str, tracking: Tracking) -> Ensemble:
    """Fetches the ensemble `models:/NAME@ALIAS` or `models:/NAME/3` into the folder `target`.

    The folder appears whole and checked, or not at all; when it holds this ensemble already,
    nothing is fetched. Raises `DamageError` when anything in the registry is missing, altered, or
    does not belong there, `InputError` when the folder holds something else.
    """
    version = tracking.version(uri)
    digest = version.tags.get(DIGEST_TAG)
    if digest is None:
        raise DataError(f"'{uri}' is not a Septet ensemble: its version has no tag {DIGEST_TAG}.")
    place = open_place(target)
    if _holds(place, digest):
        return read_ensemble(place)[0]
    near = place.root.parent if isinstance(place, LocalPlace) else None
    if near is not None:
        _make(near)
    with tempfile.TemporaryDirectory(prefix=".septet-", dir=near) as folder:
        fetched = LocalPlace(_fetch(tracking, version, Path(folder)))
        made = _checked(fetched, version, digest)
        _put(fetched, place, made)
    return made


def _registered(tracking: Tracking, name: str, alias: str) -> Version | None:
    try:
        return tracking.version(f"models:/{name}@{alias}")
    except DataError:
        return None


def _served() -> ServedModel:
    """Our four packages as source, and the libraries that prediction imports, pinned."""
    packages = (infra, pipeline, train, ensemble)
    versions = {name: provenance.version(name) for name in NEEDED}
    return ServedModel(
        loader=serving.__name__,
        packages=tuple(Path(str(package.__file__)).parent for package in packages),
        # a local build's mark (2.15.0+cpu) is not installable from PyPI by that name
        requirements=tuple(
            f"{name}=={text.partition('+')[0]}" for name, text in versions.items() if text
        ),
        inputs=serving.INPUTS,
        outputs=serving.OUTPUTS,
        params=serving.PARAMS,
    )


def _fetch(tracking: Tracking, version: Version, folder: Path) -> Path:
    """Downloads the ensemble's part of the model, if the model holds only what it should."""
    root = f"data/{FOLDER}/"
    listed = tracking.files(version)
    strange = [name for name in listed if not _belongs(name)]
    if strange:
        raise DamageError(
            f"'{version.uri}' holds '{strange[0]}', which does not belong to an ensemble; "
            "nothing was fetched."
        )
    if f"{root}{NAME}" not in listed:
        raise DamageError(f"'{version.uri}' has no {NAME}; nothing was fetched.")
    return tracking.download(version, f"data/{FOLDER}", folder)


def _belongs(name: str) -> bool:
    """Whether a registered ensemble may have a file of that name."""
    check_name(name)
    if name.startswith("code/"):
        return name.endswith((".py", ".toml", ".html", ".css"))
    return name.startswith(f"data/{FOLDER}/") or name in WRAPPER


def _checked(fetched: LocalPlace, version: Version, digest: str) -> Ensemble:
    read_checked(fetched, NAME, digest)
    made, _ = read_ensemble(fetched)
    for name in fetched.names():
        if name not in made.files and name not in (NAME, PAGE):
            raise DamageError(f"'{version.uri}' holds '{name}', which {NAME} does not name.")
    check_files(fetched, made)
    read_checked(fetched, PAGE, version.tags.get(PAGE_TAG, ""))
    return made


def _holds(place: Place, digest: str) -> bool:
    """Whether this very ensemble is there, whole; `InputError` when something else is."""
    if next(iter(place.names()), None) is None:
        return False
    if place.size(NAME) is not None:
        found, there = read_ensemble(place)
        if there == digest:
            check_files(place, found)
            return True
    raise InputError(f"'{place.uri}' is not empty; give a folder that does not exist yet.")


def _put(fetched: LocalPlace, place: Place, made: Ensemble) -> None:
    if not isinstance(place, LocalPlace):
        _copy(fetched, place, [*made.files, PAGE, NAME])  # the manifest last: then it is complete
        return
    aside = place.root.with_name(f".{place.root.name}.{uuid.uuid4().hex}.tmp")
    try:
        shutil.move(fetched.root, aside)
        aside.replace(place.root)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StorageError(f"cannot write '{place.uri}': {error.strerror or error}.") from error


def _copy(source: Place, target: Place, names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="septet-") as folder:
        for name in names:
            if isinstance(target, LocalPlace):
                source.download(name, target.path(name))
            else:
                source.download(name, Path(folder) / "file")
                target.upload(name, Path(folder) / "file")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make '{folder}': {error.strerror or error}.") from error
