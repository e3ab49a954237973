"""A member's run folder: what a run is, what it became, and reading it back.

`job.json` is written first and says what the folder is for; `member.json` is written last, so its
presence means a finished member, and carries the digests of what lies beside it:
`weights.safetensors` (the network's parameters in the canonical layout) and `stats.npz` (the
dataset's image statistics, which prediction needs). `metrics.jsonl` has one object an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from infra import provenance
from infra.errors import ConfigError, DamageError, DataError
from infra.manifest import (
    MEMBER_FORMAT,
    ClassName,
    DatasetManifest,
    read_checked,
    read_json,
    sha256,
    to_json,
)
from infra.recipes import Recipe, from_dict
from infra.storage import Place, open_place
from train.augment import ImageStatistics
from train.job import Job
from train.network import AlexNet, load_canonical
from train.sight import Row

CPU = torch.device("cpu")
FREE = ("recipe.summary", "recipe.compute.cores", "init.uri")  # may change in a continued run


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """`member.json`: a finished member, as plain values but for the recipe and the classes.

    Times are UTC in ISO 8601; `seconds` is the work of all runs on it together. Errors in
    `metrics` are shares from 0 to 1, of the last epoch, by the centre view.
    """

    recipe: Recipe
    dataset: dict[str, str]  # uri, sha256 of dataset.json
    classes: tuple[ClassName, ...]
    image: dict[str, Any]  # how the dataset's pictures came to be
    seed: int
    replicas: int
    device: str
    code: dict[str, Any]
    libraries: dict[str, str]
    host: dict[str, Any]
    started: str
    finished: str
    seconds: float
    weights_sha256: str
    stats_sha256: str
    metrics: dict[str, float]
    init: dict[str, str] | None = None  # uri and weights_sha256 of the member it started from
    format: int = MEMBER_FORMAT


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedMember:
    """A member that can predict; `network` is in the canonical weights' network, in eval use."""

    member: Member
    network: AlexNet
    stats: ImageStatistics


def read_member(place: Place) -> Member:
    """The finished member in a run folder.

    Raises `DataError` when there is none, `DamageError` when its file is harmed.
    """
    raw, _ = read_json(place, "member.json", "a finished member")
    if not isinstance(raw, dict) or raw.get("format") != MEMBER_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise DataError(
            f"'{place.uri}' has member format {found}; this version reads {MEMBER_FORMAT}."
        )
    try:
        raw["recipe"] = from_dict(raw["recipe"])
        raw["classes"] = tuple(ClassName(**entry) for entry in raw["classes"])
        return Member(**raw)
    except (KeyError, TypeError, ConfigError) as error:
        raise DamageError(f"member.json in '{place.uri}' lacks or misnames: {error}.") from None


def load_member(
    place: Place, devices: tuple[torch.device, torch.device] = (CPU, CPU)
) -> LoadedMember:
    """The member with its network on two devices; both files are checked by their digests."""
    member = read_member(place)
    weights = load(read_checked(place, "weights.safetensors", member.weights_sha256))
    stats = ImageStatistics.read(read_checked(place, "stats.npz", member.stats_sha256))
    network = AlexNet(member.recipe, len(member.classes), devices)
    load_canonical(network, weights)
    return LoadedMember(member=member, network=network, stats=stats)


def open_run(place: Place, job: Job, dataset_sha256: str) -> bool:
    """Claims a run folder for a job; True when it holds the finished member already.

    Raises `ConfigError` naming what differs when the folder belongs to another recipe, dataset,
    seed or initial member.
    """
    claim = {
        "recipe": job.recipe.to_dict(),
        "dataset_sha256": dataset_sha256,
        "seed": job.seed,
        "init": _initial(job),
    }
    if place.size("job.json") is None:
        if place.size("member.json") is not None:
            raise DamageError(f"'{place.uri}' has a member.json but no job.json; it is incomplete.")
        started = datetime.now(UTC).isoformat(timespec="seconds")
        place.write("job.json", to_json({**claim, "started": started}))
        return False
    found, _ = read_json(place, "job.json", "a run")
    differences = [
        f"{key} is {there} there and {here} now"
        for key, there, here in _differences(found, json.loads(to_json(claim)))
        if key not in (*FREE, "started")
    ]
    if differences:
        raise ConfigError(
            f"'{place.uri}' holds another run: {'; '.join(differences[:4])}. "
            "Give a new folder, or the values it was begun with."
        )
    return place.size("member.json") is not None


def write_metrics(place: Place, history: tuple[Row, ...]) -> None:
    """Replaces `metrics.jsonl` by the rows of the epochs so far: none lost, none twice."""
    lines = (json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in history)
    place.write("metrics.jsonl", "".join(lines).encode())


def write_member(
    place: Place,
    job: Job,
    *,
    dataset: DatasetManifest,
    stats: bytes,
    weights: dict[str, Tensor],
    history: tuple[Row, ...],
) -> None:
    """Publishes the finished member, `member.json` last."""
    data = save(weights)
    place.write("weights.safetensors", data)
    place.write("stats.npz", stats)
    write_metrics(place, history)
    claim, _ = read_json(place, "job.json", "a run")
    last = history[-1]
    member = Member(
        recipe=job.recipe,
        dataset={"uri": job.dataset, "sha256": claim["dataset_sha256"]},
        classes=dataset.classes,
        image=dataset.image,
        seed=job.seed,
        replicas=job.replicas,
        device=job.device,
        code=asdict(provenance.code()),
        libraries=provenance.libraries(),
        host={**provenance.host(), "gpus": _gpus(job)},
        started=claim["started"],
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=last["seconds"],
        weights_sha256=sha256(data),
        stats_sha256=sha256(stats),
        init=claim["init"],
        metrics={
            **{name: last[name] for name in ("top1_error", "top5_error", "val_loss")},
            "epochs": len(history),
            "images_per_s": sum(row["images_per_s"] for row in history) / len(history),
        },
    )
    place.write("member.json", to_json(member))


def initial_weights(job: Job, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`fresh` canonical weights with all layers but the last from the job's initial member.

    The paper's networks that were trained on the 2011 release first were carried on so (section 6).
    Raises `DataError` naming the layer that does not fit, `DamageError` for harmed weights.
    """
    assert job.init is not None
    place, last = open_place(job.init), list(job.recipe.layers)[-1]
    member = read_member(place)
    if list(member.recipe.layers)[:-1] != list(job.recipe.layers)[:-1]:
        raise DataError(
            f"'{job.init}' has the layers {', '.join(member.recipe.layers)}; recipe "
            f"'{job.recipe.name}' has {', '.join(job.recipe.layers)}: only the last may differ."
        )
    found = load(read_checked(place, "weights.safetensors", member.weights_sha256))
    taken = {name: found[name] for name in fresh if name.rpartition(".")[0] != last}
    for name, value in taken.items():
        if value.shape != fresh[name].shape:
            raise DataError(
                f"'{name}' of '{job.init}' has shape {tuple(value.shape)}; recipe "
                f"'{job.recipe.name}' needs {tuple(fresh[name].shape)}."
            )
    return {**fresh, **taken}


def _initial(job: Job) -> dict[str, str] | None:
    if job.init is None:
        return None
    return {"uri": job.init, "weights_sha256": read_member(open_place(job.init)).weights_sha256}


def _gpus(job: Job) -> list[str]:
    if job.device == "cpu":
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted({*there, *here}):
            below = f"{name}.{key}" if name else key
            yield from _differences(there.get(key), here.get(key), below)
    elif there != here:
        yield name, there, here
