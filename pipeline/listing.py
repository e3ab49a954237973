"""What a source holds: every image with its class, in columns, so that 15 million of them fit.

A `Listing` is made once by the driver, reading names and sizes only. A file that is not an image is
listed like one and becomes a counted reject later: nothing is left out in silence.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from infra.manifest import ClassName
from infra.storage import Place


class Names:
    """Many strings, packed: their UTF-8 bytes in one block and where each one ends."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Adds one; raises `DataError` for a file name that is not UTF-8."""
        try:
            self._bytes += name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name {name!r} in the source is not UTF-8; rename it.") from None
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode()

    def digest(self) -> str:
        """Hex sha256 over all of them."""
        mixed = hashlib.sha256(self._bytes)
        mixed.update(self._ends)
        return mixed.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The images of one source, in the order of their paths.

    `paths` of each image inside the source, `labels` int32 into `classes`, `sizes` int64 in bytes.
    """

    uri: str
    classes: tuple[ClassName, ...]
    paths: Names
    labels: NDArray[np.int32]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Hex sha256 of paths, labels and sizes: what the plan believes the source to be."""
        mixed = hashlib.sha256(self.paths.digest().encode())
        mixed.update(self.labels.data)
        mixed.update(self.sizes.data)
        return mixed.hexdigest()


@dataclass(slots=True)
class Columns:
    """A listing in the making."""

    paths: Names = field(default_factory=Names)
    labels: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, path: str, label: int, size: int) -> None:
        """One image."""
        self.paths.append(path)
        self.labels.append(label)
        self.sizes.append(size)

    def listing(self, uri: str, classes: Iterable[ClassName]) -> Listing:
        """The finished listing."""
        return Listing(
            uri=uri,
            classes=tuple(classes),
            paths=self.paths,
            labels=np.frombuffer(self.labels, np.int32),
            sizes=np.frombuffer(self.sizes, np.int64),
        )


def class_folders(place: Place) -> Listing:
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
        before = len(columns.paths)
        for path, size in place.entries(f"{folder}/"):
            if "/." not in path:
                columns.add(path, label, size)
        if len(columns.paths) == before:
            raise DataError(
                f"class '{folder}' in '{place.uri}' has no images; "
                f"remove the folder or put its images there."
            )
    words = _words(place)
    names = [
        ClassName(label=label, wnid=folder, words=words.get(folder, folder))
        for label, folder in enumerate(folders)
    ]
    return columns.listing(place.uri, names)


def _words(place: Place) -> dict[str, str]:
    if place.size("words.txt") is None:
        return {}
    lines = place.read("words.txt").decode(errors="replace").splitlines()
    pairs = (line.partition("\t") for line in lines)
    return {folder.strip(): words.strip() for folder, _, words in pairs if words.strip()}


def same_classes(train: Listing, val: Listing) -> None:
    """Raises `DataError`, naming some, unless both splits have the same classes."""
    ours, theirs = ({entry.wnid for entry in listing.classes} for listing in (train, val))
    for what, names in (("lacks", ours - theirs), ("has", theirs - ours)):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise DataError(
                f"the classes of '{val.uri}' must be those of '{train.uri}', "
                f"but it {what}{'' if what == 'lacks' else ' besides'} {some}."
            )
