"""Sources of loose files: a folder of class folders, and Kaggle's layout of ILSVRC."""

from __future__ import annotations

from infra.errors import DataError
from infra.manifest import ClassName
from infra.storage import Place
from pipeline.listing import Columns, Listing

KAGGLE_CLASSES = "LOC_synset_mapping.txt"
KAGGLE_TRUTH = "LOC_val_solution.csv"
KAGGLE_IMAGES = "ILSVRC/Data/CLS-LOC"


def class_folders(place: Place) -> dict[str, Listing]:
    """A folder of class folders: sorted folder names are the classes, as ImageFolder numbers them.

    Hidden files and folders (a name that begins with '.') are no part of it. Files beside the class
    folders belong to no class; one of them, `words.txt` (lines of `folder TAB words`), names the
    classes for people. Raises `DataError` without a class folder and for a class without a file.
    """
    folders = [name for name in place.folders() if not name.startswith(".")]
    if not folders:
        raise DataError(
            f"'{place.uri}' has no class folders; give a folder that holds one folder a class."
        )
    columns = Columns()
    for label, folder in enumerate(folders):
        before = len(columns.names)
        columns.open(f"{folder}/")
        for path, size in place.entries(f"{folder}/"):
            if "/." not in path:
                columns.add(path.removeprefix(f"{folder}/"), label, size)
        if len(columns.names) == before:
            raise DataError(
                f"class '{folder}' in '{place.uri}' has no images; "
                f"remove the folder or put its images there."
            )
    words = _words(place)
    names = [
        ClassName(label=label, wnid=folder, words=words.get(folder, folder))
        for label, folder in enumerate(folders)
    ]
    return {"train": columns.listing(place.uri, names)}


def _words(place: Place) -> dict[str, str]:
    if place.size("words.txt") is None:
        return {}
    lines = place.read("words.txt").decode(errors="replace").splitlines()
    pairs = (line.partition("\t") for line in lines)
    return {folder.strip(): words.strip() for folder, _, words in pairs if words.strip()}


def kaggle(place: Place) -> dict[str, Listing]:
    """Kaggle's layout of ILSVRC-2012 (CLS-LOC): class folders, a flat val with a table of labels.

    Its test images have no labels and are no part of the source. Classes by sorted wnid.
    """
    lines = place.read(KAGGLE_CLASSES).decode(errors="replace").splitlines()
    pairs = sorted(line.partition(" ")[::2] for line in lines if line.strip())
    classes = [
        ClassName(label=label, wnid=wnid, words=words.strip())
        for label, (wnid, words) in enumerate(pairs)
    ]
    label_of = {entry.wnid: entry.label for entry in classes}
    train, val = Columns(), Columns()
    for entry in classes:
        folder = f"{KAGGLE_IMAGES}/train/{entry.wnid}/"
        train.open(folder)
        for path, size in place.entries(folder):
            train.add(path.removeprefix(folder), entry.label, size)
    truth = _kaggle_truth(place)
    folder = f"{KAGGLE_IMAGES}/val/"
    val.open(folder)
    for path, size in place.entries(folder):
        name = path.removeprefix(folder)
        wnid = truth.get(name.partition(".")[0], "")
        if wnid not in label_of:
            raise DataError(f"'{path}' has no label in {KAGGLE_TRUTH}; fetch that file again.")
        val.add(name, label_of[wnid], size)
    return {
        split: columns.listing(place.uri, classes)
        for split, columns in (("train", train), ("val", val))
        if len(columns.names)
    }


def _kaggle_truth(place: Place) -> dict[str, str]:
    """wnid by image; a line is `ILSVRC2012_val_00048981,n03995372 85 1 499 272 ...`."""
    if place.size(KAGGLE_TRUTH) is None:
        return {}
    lines = place.read(KAGGLE_TRUTH).decode(errors="replace").splitlines()[1:]
    pairs = (line.partition(",") for line in lines)
    return {image: boxes.partition(" ")[0] for image, _, boxes in pairs}
