"""Pictures to predict: single files, folders and tars, read one at a time.

Tars are streamed and never extracted: regular files only, so a member's name, link or device cannot
reach the disk. What cannot be read is a value with a reason, not an error.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import DataError, StorageError
from infra.storage import Place, open_place
from pipeline.header import MAX_FILE

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
READ_AHEAD = 1 << 20  # bytes of a tar read at once


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A picture's name and its bytes, or the reason why there are none."""

    name: str
    data: bytes = b""
    reason: str = ""


def pictures(sources: Iterable[str]) -> Iterator[Named]:
    """Every picture of the sources, in order: files, folders (with what lies below) and `.tar`s.

    Of folders and tars only files that are named like a picture are taken. Raises `DataError` for
    a source that is absent, holds no picture, or is not a tar though it is named like one.
    """
    for source in sources:
        if source.lower().endswith(".tar"):
            yield from _some(source, _in_tar(source))
        elif _is_file(source):
            place, name = _parent(source)
            yield _read(place, name, source)
        else:
            place = open_place(source)
            names = (name for name in place.names() if _is_picture(name))
            yield from _some(source, (_read(place, name, name) for name in names))


def demand_sources(sources: Iterable[str]) -> None:
    """Raises `DataError` naming the first source that does not exist; reads none of them."""
    for source in sources:
        if source.startswith("s3://") and not _is_file(source):
            continue  # a prefix exists as far as there is something below it
        place, name = _parent(source)
        if place.size(name) is None and not Path(source).is_dir():
            raise DataError(f"there is no '{source}'; give pictures, folders or tars.")


def _is_file(source: str) -> bool:
    if source.startswith("s3://"):
        return _is_picture(source) or source.lower().endswith(".tar")
    return not Path(source).is_dir()


def _is_picture(name: str) -> bool:
    base = name.rpartition("/")[2]  # pathlib would intern every name it sees
    return base.lower().endswith(SUFFIXES) and not base.startswith(".")


def _parent(source: str) -> tuple[Place, str]:
    if source.startswith("s3://"):
        head, _, name = source.rpartition("/")
        return open_place(head), name
    path = Path(source.removeprefix("file://")).absolute()
    return open_place(path.parent), path.name


def _read(place: Place, name: str, shown: str) -> Named:
    try:
        size = place.size(name)
        if size is None:
            return Named(name=shown, reason="is not there")
        if size > MAX_FILE:
            return Named(name=shown, reason="too_large")
        return Named(name=shown, data=place.read(name))
    except StorageError as error:
        return Named(name=shown, reason=str(error))


def _some(source: str, found: Iterator[Named]) -> Iterator[Named]:
    empty = True
    for picture in found:
        empty = False
        yield picture
    if empty:
        raise DataError(f"'{source}' holds no picture; they end in {', '.join(SUFFIXES)}.")


def _in_tar(source: str) -> Iterator[Named]:
    place, name = _parent(source)
    size = place.size(name)
    if size is None:
        raise DataError(f"there is no '{source}'; give pictures, folders or tars.")
    stream = io.BufferedReader(_Ranges(place, name, size), READ_AHEAD)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would remember every one
                if member.isreg() and _is_picture(member.name):
                    yield _from_tar(tar, member)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise DataError(f"'{source}' is not a whole tar: {error}.") from None


def _from_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Named:
    if member.size > MAX_FILE:
        return Named(name=member.name, reason="too_large")
    file = tar.extractfile(member)  # a reader of the stream; nothing is written
    return Named(name=member.name, data=file.read() if file else b"")


class _Ranges(io.RawIOBase):
    """An object of a place as a file that is read from front to back."""

    def __init__(self, place: Place, name: str, size: int) -> None:
        self.place, self.name, self.size, self.at = place, name, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self.size - self.at)
        if wanted:
            buffer[:wanted] = self.place.read_range(self.name, self.at, wanted)
        self.at += wanted
        return wanted
