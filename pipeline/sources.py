"""Which kind of source a place is, and what is in it.

Every reader takes a place and gives its splits. A source that brings its own validation images
(ILSVRC, Kaggle, a dataset of ours) needs no `--val`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infra.errors import ConfigError, DataError
from infra.storage import Place
from pipeline.archives import class_tars, ilsvrc, webdataset
from pipeline.devkit import TRAIN, Devkit, read_devkit
from pipeline.folders import KAGGLE_CLASSES, class_folders, kaggle
from pipeline.listing import Listing
from pipeline.tables import parquet
from pipeline.tarindex import members

FORMATS: dict[str, Callable[[Place], dict[str, Listing]]] = {
    "folders": class_folders,
    "class-tars": class_tars,
    "ilsvrc": ilsvrc,
    "kaggle": kaggle,
    "webdataset": webdataset,
    "parquet": parquet,
}
LabelOrder = Literal["wnid", "ilsvrc"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRules:
    """How a source is read: its `format` (None: recognised), the order of labels, and whether an
    ILSVRC-2012 with missing images will do."""

    format: str | None = None
    label_order: LabelOrder = "wnid"
    allow_shortfall: bool = False

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(
                f"--format is '{self.format}'; it must be one of {', '.join(FORMATS)}."
            )


OFFICIAL = {"train": 1_281_167, "val": 50_000}  # images of ILSVRC-2012


def read_source(place: Place, rules: SourceRules) -> dict[str, Listing]:
    """The splits of a source, recognised unless its format is named, with the labels asked for.

    Raises `DataError` for a source that is not one, or for an ILSVRC-2012 that is not whole.
    """
    form = rules.format or recognise(place)
    splits = FORMATS[form](place)
    for listing in splits.values():
        _check_labels(listing)
    devkit = read_devkit(place) if form == "ilsvrc" or rules.label_order == "ilsvrc" else None
    if form in ("ilsvrc", "kaggle") and not rules.allow_shortfall:
        check_official(splits, devkit)
    if devkit is not None and rules.label_order == "ilsvrc":
        splits = by_devkit_order(splits, devkit)
    return splits


def recognise(place: Place) -> str:
    """The format's name, by the files that only it has; class folders otherwise."""
    if place.size(TRAIN) is not None:
        return "ilsvrc"
    if place.size(KAGGLE_CLASSES) is not None:
        return "kaggle"
    if _has_parquet(place):
        return "parquet"
    tar = _first_tar(place)
    if tar is None:
        return "folders"
    for number, member in enumerate(members(place, tar, 0, place.size(tar) or 0)):
        if member.name.endswith(".cls"):
            return "webdataset"
        if number == 9:
            break
    return "class-tars"


def _first_tar(place: Place) -> str | None:
    """A tar at the top, or in a folder `train`."""
    for prefix, folder in (("", place), ("train/", place.child("train"))):
        for name in folder.files():
            if name.endswith(".tar") and not name.startswith("."):
                return prefix + name
    return None


def _has_parquet(place: Place) -> bool:
    """At the top or in a folder `data`, as the hub has them; not the index of a dataset of ours."""
    found = [*place.files(), *place.child("data").files()]
    return any(name.endswith(".parquet") and name != "index.parquet" for name in found)


def by_devkit_order(splits: dict[str, Listing], devkit: Devkit) -> dict[str, Listing]:
    """The same images with labels in the order of the devkit's ILSVRC2012_ID.

    Raises `DataError` when the source's classes are not the devkit's.
    """
    id_of = dict(zip((entry.wnid for entry in devkit.classes), devkit.ids, strict=True))
    result = {}
    for split, listing in splits.items():
        if {entry.wnid for entry in listing.classes} != id_of.keys():
            raise DataError(f"the classes of '{listing.uri}' are not those of its devkit.")
        order = sorted(listing.classes, key=lambda entry: id_of[entry.wnid])
        new_of = {entry.label: label for label, entry in enumerate(order)}
        table = np.array([new_of[label] for label in range(len(order))], np.int32)
        result[split] = dataclasses.replace(
            listing,
            classes=tuple(dataclasses.replace(e, label=new_of[e.label]) for e in order),
            labels=table[listing.labels],
        )
    return result


def check_official(splits: dict[str, Listing], devkit: Devkit | None) -> None:
    """Raises `DataError` unless there are as many images as ILSVRC-2012 has, class by class."""
    for split, listing in splits.items():
        if len(listing) != OFFICIAL[split]:
            raise DataError(
                f"ILSVRC-2012 has {OFFICIAL[split]:,} {split} images, '{listing.uri}' has "
                f"{len(listing):,}; fetch what is missing, or give --allow-shortfall."
            )
    if devkit is None:
        return
    train = splits["train"]
    counts = np.bincount(train.labels, minlength=len(train.classes)).tolist()
    for entry, found, wanted in zip(train.classes, counts, devkit.official, strict=True):
        if found != wanted:
            raise DataError(
                f"class {entry.wnid} of ILSVRC-2012 has {wanted:,} train images, here {found:,}; "
                f"fetch what is missing, or give --allow-shortfall."
            )


def _check_labels(listing: Listing) -> None:
    """Every label is a class's, and every class of a train split has an image."""
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    if len(counts) > len(listing.classes):
        raise DataError(
            f"'{listing.uri}' has a label {len(counts) - 1}, but {len(listing.classes)} classes."
        )
