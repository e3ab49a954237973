"""Sources of tars, read in place: class tars, ILSVRC-2012 as downloaded, WebDataset shards."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from infra.errors import DataError
from infra.manifest import ClassName, DatasetManifest
from infra.storage import Place
from pipeline.devkit import TRAIN, VAL, Devkit, read_devkit
from pipeline.listing import Columns, Listing
from pipeline.tarindex import Member, members

THREADS = 32  # archives indexed at once: each header is a request when they lie on S3
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".ppm", ".tif", ".tiff", ".img")


def class_tars(place: Place) -> dict[str, Listing]:
    """A folder of one tar a class (the Fall 2011 release): sorted tar names are the classes."""
    tars = [(name, 0, size) for name, size in place.entries() if _is_tar(name)]
    if not tars:
        raise DataError(f"'{place.uri}' holds no tars.")
    columns = Columns()
    classes = []
    for label, (name, found) in enumerate(_index(place, tars)):
        wnid = name.removesuffix(".tar")
        if not found:
            raise DataError(f"class tar '{name}' in '{place.uri}' has no images; remove it.")
        columns.open(f"{name}/", name)
        for member in found:
            columns.add(member.name, label, member.size, member.offset)
        classes.append(ClassName(label=label, wnid=wnid, words=wnid))
    return {"train": columns.listing(place.uri, classes)}


def ilsvrc(place: Place) -> dict[str, Listing]:
    """ILSVRC-2012 as downloaded: the tar of class tars, the val tar, the devkit with its labels.

    Classes in the order of the sorted wnids (ImageFolder's, Caffe's and torchvision's).
    """
    devkit = read_devkit(place)
    label_of = {entry.wnid: entry.label for entry in devkit.classes}
    train = Columns()
    inner = list(members(place, TRAIN, 0, place.size(TRAIN) or 0))
    spans = [(TRAIN, member.offset, member.size) for member in inner]
    for member, (_, found) in zip(inner, _index(place, spans), strict=True):
        wnid = member.name.rpartition("/")[2].removesuffix(".tar")
        if wnid not in label_of:
            raise DataError(f"'{TRAIN}' holds '{member.name}', which is no class of the devkit.")
        train.open(f"{member.name}/", TRAIN)
        for image in found:
            train.add(image.name, label_of[wnid], image.size, image.offset)
    splits = {"train": train.listing(place.uri, devkit.classes)}
    size = place.size(VAL)
    if size is not None:
        splits["val"] = _val(place, size, devkit)
    return splits


def _val(place: Place, size: int, devkit: Devkit) -> Listing:
    """Images in the order of their names, which is that of the ground truth's lines."""
    found = sorted(members(place, VAL, 0, size), key=lambda member: member.name)
    columns = Columns()
    columns.open("", VAL)
    for member in found:
        digits = member.name.rpartition("_")[2].partition(".")[0]
        if not digits.isdigit() or not 1 <= int(digits) <= len(devkit.val_labels):
            raise DataError(f"'{VAL}' holds '{member.name}', which has no line in the devkit.")
        columns.add(member.name, devkit.val_labels[int(digits) - 1], member.size, member.offset)
    return columns.listing(place.uri, devkit.classes)


def webdataset(place: Place) -> dict[str, Listing]:
    """WebDataset tars with KEY.jpg (or another picture) and KEY.cls, a label in digits.

    Folders `train` and `val` are splits; without them all tars are train. Class names come from a
    dataset.json beside them (our own datasets), else they are the numbers.
    """
    tars = [(name, 0, size) for name, size in place.entries() if _is_tar(name)]
    names = _class_names(place)
    splits: dict[str, Columns] = {}
    for name, found in _index(place, tars):
        head = name.partition("/")[0]
        split = {"val": "val", "validation": "val", "test": ""}.get(head, "train")
        if split:
            columns = splits.setdefault(split, Columns())
            columns.open(f"{name}/", name)
            _samples(place, name, found, columns)
    if "train" not in splits:
        raise DataError(f"'{place.uri}' holds no train tars.")
    count = len(names) or max(max(columns.labels, default=0) for columns in splits.values()) + 1
    classes = names or [
        ClassName(label=n, wnid=f"{n:05d}", words=f"class {n}") for n in range(count)
    ]
    return {split: columns.listing(place.uri, classes) for split, columns in splits.items()}


def _samples(place: Place, file: str, found: list[Member], columns: Columns) -> None:
    """Pairs each picture with its label; both bear the same key."""
    labels: dict[str, int] = {}
    pictures: list[tuple[str, Member]] = []
    for member in found:
        folder, _, base = member.name.rpartition("/")
        key, _, extension = base.partition(".")
        if extension.lower() == "cls":
            raw = place.read_range(file, member.offset, min(member.size, 20)).strip()
            if not raw.isdigit() or int(raw) > 1_000_000:
                raise DataError(f"'{member.name}' in '{file}' is {raw!r}, not a label in digits.")
            labels[f"{folder}/{key}"] = int(raw)
        elif f".{extension.lower()}".endswith(PICTURES):
            pictures.append((f"{folder}/{key}", member))
    for key, member in pictures:
        if key not in labels:
            raise DataError(f"'{member.name}' in '{file}' has no label: no '{key[1:]}.cls'.")
        columns.add(member.name, labels[key], member.size, member.offset)


def _class_names(place: Place) -> list[ClassName]:
    if place.size("dataset.json") is None:
        return []
    return list(DatasetManifest.read(place)[0].classes)


def _index(
    place: Place, spans: Iterable[tuple[str, int, int]]
) -> Iterable[tuple[str, list[Member]]]:
    """(name, its members) of each (name, start, size), in order, many at a time."""

    def one(span: tuple[str, int, int]) -> tuple[str, list[Member]]:
        return span[0], list(members(place, *span))

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(one, spans)


def _is_tar(name: str) -> bool:
    return name.endswith(".tar") and not any(part.startswith(".") for part in name.split("/"))
