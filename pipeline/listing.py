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


class Names:
    """Many strings, packed: their UTF-8 bytes in one block and where each one ends."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("I", [0])  # 4 GiB of names
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
class Group:
    """Images that lie together: `prefix` of their paths, and the archive `file` they are in.

    `file` None: each is an object of its own, named by its path.
    """

    prefix: str
    file: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The images of one split of a source, in the source's order; columns of equal length.

    `names` inside their group, `groups` int32 into `places`, `labels` int32 into `classes`, `sizes`
    uint32 in bytes (larger ones are cut to the largest: they are refused anyway), `offsets` int64
    in the group's file, 0 for whole objects. `window` is for sources that can only be read by the
    group: a global permutation would read each group once for every image in it.
    """

    uri: str
    classes: tuple[ClassName, ...]
    places: tuple[Group, ...]
    names: Names
    groups: NDArray[np.int32]
    labels: NDArray[np.int32]
    sizes: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    window: int = 0  # groups that are mixed with each other; 0: all

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> str:
        """An image's path in the source, as people know it."""
        return f"{self.places[self.groups[row]].prefix}{self.names[row]}"

    def digest(self) -> str:
        """Hex sha256 of all columns: what the plan believes the source to be."""
        mixed = hashlib.sha256(f"{self.window} {self.names.digest()}".encode())
        for group in self.places:
            mixed.update(f"{group.prefix}\0{group.file}\0".encode())
        for column in (self.groups, self.labels, self.sizes, self.offsets):
            mixed.update(column.data)
        return mixed.hexdigest()


@dataclass(slots=True)
class Columns:
    """A listing in the making."""

    places: list[Group] = field(default_factory=list)
    names: Names = field(default_factory=Names)
    groups: array[int] = field(default_factory=lambda: array("i"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    offsets: array[int] = field(default_factory=lambda: array("q"))

    def open(self, prefix: str, file: str | None = None) -> None:
        """Begins a group; the images added next are in it."""
        self.places.append(Group(prefix=prefix, file=file))

    def add(self, name: str, label: int, size: int, offset: int = 0) -> None:
        """One image of the group begun last."""
        self.names.append(name)
        self.groups.append(len(self.places) - 1)
        self.labels.append(label)
        self.sizes.append(min(size, 0xFFFFFFFF))
        self.offsets.append(offset)

    def listing(self, uri: str, classes: Iterable[ClassName], window: int = 0) -> Listing:
        """The finished listing; the columns are shared, not copied."""
        return Listing(
            uri=uri,
            classes=tuple(classes),
            places=tuple(self.places),
            names=self.names,
            groups=np.frombuffer(self.groups, np.int32),
            labels=np.frombuffer(self.labels, np.int32),
            sizes=np.frombuffer(self.sizes, np.uint32),
            offsets=np.frombuffer(self.offsets, np.int64),
            window=window,
        )


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
