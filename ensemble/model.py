"""A model that can predict: one member, an ensemble, or a registered one, behind one interface."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble.average import average, members_by_views
from ensemble.manifest import NAME, check_files, read_ensemble
from infra.errors import DamageError, DataError, InputError
from infra.manifest import ClassName
from infra.storage import Place, open_place
from pipeline.rule import ImageRule
from train.member import LoadedMember, load_member

REGISTERED = "models:/"
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Members whose softmax outputs are averaged with `weights`; one member is a model too."""

    name: str
    classes: tuple[ClassName, ...]
    members: tuple[LoadedMember, ...]
    weights: tuple[float, ...]

    def probabilities(self, images_u8: Tensor, num_views: int = 1) -> Tensor:
        """Probabilities (N, classes) float64 on the CPU, of pictures (N, 3, 256, 256) uint8."""
        return self.by_views(images_u8, num_views)[num_views]

    def by_views(self, images_u8: Tensor, num_views: int) -> dict[int, Tensor]:
        """`probabilities` from 1 view and from `num_views`, out of the same forward passes."""
        found = members_by_views(self.members, images_u8, num_views)
        return {views: average(part, self.weights) for views, part in found.items()}


@contextmanager
def open_model(uri: str, device: str = "cpu", tracking_uri: str | None = None) -> Iterator[Model]:
    """The model at a path or `s3://` URI, or `models:/NAME@ALIAS`, whose files are fetched first.

    Raises `DataError` when there is none, `DamageError` when a file is not what its digest says.
    """
    _devices(device)  # said now, before anything is fetched
    if not uri.startswith(REGISTERED):
        yield load_model(open_place(uri), device)
        return
    from ensemble.registry import pull
    from infra.tracking import Tracking

    with tempfile.TemporaryDirectory(prefix="septet-") as folder:
        pull(uri, str(Path(folder) / "model"), Tracking(tracking_uri))
        yield replace(load_model(open_place(Path(folder) / "model"), device), name=uri)


def load_model(place: Place, device: str = "cpu") -> Model:
    """The ensemble or the member in a folder, with every digest checked."""
    if place.size(NAME) is None and place.size("member.json") is None:
        raise DataError(
            f"'{place.uri}' is neither a member nor an ensemble: it has no member.json and no "
            f"{NAME}; if it is being trained, run the same command again to finish it."
        )
    if place.size(NAME) is None:
        members = load_members([place], device)
        return _model(place, members, (1.0,))
    ensemble, _ = read_ensemble(place)
    check_files(place, ensemble, small_only=True)  # the large ones are checked as they are loaded
    members = load_members([place.child(part.folder) for part in ensemble.members], device)
    for part, loaded in zip(ensemble.members, members, strict=True):
        file = f"{part.folder}/weights.safetensors"
        if loaded.member.weights_sha256 != ensemble.files[file].sha256:
            raise DamageError(f"{NAME} and {part.folder} in '{place.uri}' disagree on the weights.")
    return _model(place, members, tuple(part.weight for part in ensemble.members))


def load_members(places: Iterable[Place], device: str) -> list[LoadedMember]:
    """The members in some run folders; raises `DataError` when they do not belong together."""
    devices = _devices(device)
    members = [load_member(place, devices) for place in places]
    for loaded in members:
        if loaded.member.classes != members[0].member.classes:
            raise DataError("members that are averaged must have the same classes; these do not.")
    return members


def _model(place: Place, members: list[LoadedMember], weights: tuple[float, ...]) -> Model:
    _demand_rule(members[0].member.image, place)
    return Model(
        name=place.uri,
        classes=members[0].member.classes,
        members=tuple(members),
        weights=weights,
    )


def _devices(device: str) -> tuple[torch.device, torch.device]:
    if device == "cpu":
        return CPU, CPU
    if not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device; use --device cpu.")
    return torch.device("cuda:0"), torch.device("cuda:0")


def _demand_rule(image: dict[str, Any], place: Place) -> None:
    """Pictures must be resized as the dataset's were; how they were compressed does not matter."""
    ours = {key: value for key, value in asdict(ImageRule()).items() if not key.startswith("jpeg")}
    for key, value in ours.items():
        if image.get(key, value) != value:
            raise DataError(
                f"'{place.uri}' was trained on pictures with {key} '{image[key]}'; "
                f"this version makes '{value}'."
            )
