"""Places: a folder on disk or a prefix in object storage, behind one small interface.

A `Place` holds named byte strings. Names are relative, '/'-separated, and never leave the place.
`write` publishes a whole object or nothing: on disk a temporary file, fsync and rename; on S3 one
PUT, or a completed multipart upload. boto3 is imported only when an `s3://` place is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from infra.actions import action
from infra.errors import InputError, MissingError, StorageError

if TYPE_CHECKING:
    from infra.s3 import S3Place

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://")
_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{32}\.tmp$")


class Place(Protocol):
    """Named byte strings under one root. All methods raise `StorageError` when storage fails."""

    @property
    def uri(self) -> str:
        """What a user would type to come back here."""

    def read(self, name: str) -> bytes:
        """The whole object; raises `MissingError` when there is none of that name."""

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`; `StorageError` if the object ends before."""

    def write(self, name: str, data: bytes) -> None:
        """Publishes `data` under `name`, replacing what was there; whole or not at all."""

    def upload(self, name: str, source: Path) -> None:
        """Publishes a local file under `name` as `write` does; the file may be consumed."""

    def download(self, name: str, target: Path) -> None:
        """Copies the object to a local path, streaming; the target appears whole or not at all."""

    def size(self, name: str) -> int | None:
        """Bytes of the object, or None when there is none."""

    def create(self, name: str, data: bytes) -> bool:
        """Publishes `data` unless there is an object of that name; tells whether it was written.

        Atomic on disk and where the S3 server's conditional PUT is; elsewhere an attempt.
        """

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Name and size of all objects that begin with `prefix`, sorted by code point, streamed."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names alone."""

    def folders(self) -> list[str]:
        """First parts of the names below this place that go on with '/', sorted; empty ones too."""

    def files(self) -> list[str]:
        """Names directly in this place, without those in folders, sorted."""

    def sweep(self) -> None:
        """Removes what writers that died have left aside; never what a living one is writing."""

    def delete(self, name: str) -> None:
        """Removes the object; no error when there is none."""

    def child(self, name: str) -> Place:
        """The place of everything below `name/`."""


def open_place(uri: str | os.PathLike[str]) -> Place:
    """The place behind a path, a `file://` or an `s3://bucket/prefix` URI.

    Nothing is read or made yet. Raises `InputError` for any other scheme.
    """
    text = os.fspath(uri)
    if text.startswith("s3://"):
        return _open_s3(text)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    elif _SCHEME.match(text):
        raise InputError(
            f"'{text}' is not a place Septet knows; use a local path or s3://bucket/prefix."
        )
    return LocalPlace(Path(text))


def _open_s3(uri: str) -> S3Place:
    from infra.s3 import S3Place

    return S3Place.from_uri(uri)


def check_name(name: str) -> str:
    """`name` itself; raises `InputError` if it is empty, absolute, or would leave its place."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"'{name}' is not a safe name inside a place.")
    return name


class LocalPlace:
    """A folder on disk, created when the first object is written."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def path(self, name: str) -> Path:
        """Where the object `name` lies on disk; the name is checked."""
        return self.root / check_name(name)

    def read(self, name: str) -> bytes:
        """The whole file."""
        try:
            with io.FileIO(f"{self.root}/{check_name(name)}") as file:  # joining Paths costs 45 us
                return file.readall()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"there is no '{name}' in '{self.uri}'.") from None
        except OSError as error:
            raise _failed("read", self.path(name), error) from error

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, by one positioned read."""
        try:
            with self.path(name).open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"there is no '{name}' in '{self.uri}'.") from None
        except OSError as error:
            raise _failed("read", self.path(name), error) from error
        if len(data) != size:
            raise StorageError(
                f"'{self.path(name)}' is truncated: it ends "
                f"{size - len(data)} bytes before {offset + size}."
            )
        return data

    def write(self, name: str, data: bytes) -> None:
        """Temporary file beside the target, fsync, rename, fsync of the folder."""
        with self._aside(name) as (file, aside):
            with action("write", name):
                file.write(data)
            _flush(file, name)
            with action("rename", name):
                aside.replace(self.path(name))

    def create(self, name: str, data: bytes) -> bool:
        """As `write`, but a hard link in place of the rename: it fails where a file is."""
        with self._aside(name) as (file, aside):
            with action("write", name):
                file.write(data)
            _flush(file, name)
            try:
                with action("link", name):
                    os.link(aside, self.path(name))
            except FileExistsError:
                return False
        return True

    def upload(self, name: str, source: Path) -> None:
        """Copies the file in, as `write` does."""
        with self._aside(name) as (file, aside):
            with source.open("rb") as content, action("write", name):
                shutil.copyfileobj(content, file, 1 << 20)
            _flush(file, name)
            with action("rename", name):
                aside.replace(self.path(name))

    @contextlib.contextmanager
    def _aside(self, name: str) -> Iterator[tuple[BinaryIO, Path]]:
        """A locked temporary file beside the target; gone at the end, the folder flushed to disk.

        The lock lasts as long as its process, so that `sweep` can tell what a dead one has left.
        """
        target, aside = self.path(name), None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                with action("open", name):
                    file, aside = _open_locked(target, stack)
                yield file, aside
            with action("settle", name):
                _sync_folder(target.parent)  # the rename itself must survive a power loss
        except OSError as error:
            raise _failed("write", target, error) from error
        finally:
            if aside and aside.is_file():  # a link was made, or something went wrong
                with action("unlink", name), contextlib.suppress(OSError):
                    aside.unlink()

    def sweep(self) -> None:
        """Unlinks the temporaries that nobody holds a lock on."""
        for folder, _, files in os.walk(self.root):
            for path in (Path(folder, name) for name in files if _TEMPORARY.match(name)):
                with contextlib.suppress(OSError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    with action("unlink", path.name):
                        path.unlink()

    def download(self, name: str, target: Path) -> None:
        """Copies the file."""
        source = self.path(name)
        if not source.is_file():
            raise MissingError(f"there is no '{name}' in '{self.uri}'.")
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, aside)
            aside.replace(target)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _failed("write", target, error) from error

    def size(self, name: str) -> int | None:
        """The file's size, None when it is absent."""
        try:
            found = self.path(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed("look up", self.path(name), error) from error
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Every file below the folder but unfinished temporaries; links are followed."""
        head = prefix.rpartition("/")[0]
        start = self.path(head) if head else self.root
        for name, size in _walk(start, f"{head}/" if head else "", frozenset()):
            if name.startswith(prefix):
                yield name, size

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names alone."""
        return (name for name, _ in self.entries(prefix))

    def folders(self) -> list[str]:
        """The folders directly below this one."""
        return self._direct(lambda entry: entry.is_dir())

    def files(self) -> list[str]:
        """The files directly in this folder."""
        return self._direct(lambda entry: entry.is_file())

    def _direct(self, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        try:
            with os.scandir(self.root) as found:
                return sorted(entry.name for entry in found if wanted(entry))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed("list", self.root, error) from error

    def delete(self, name: str) -> None:
        """Unlinks the file."""
        try:
            with action("unlink", name):
                self.path(name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed("delete", self.path(name), error) from error

    def child(self, name: str) -> LocalPlace:
        """The folder `name` below this one."""
        return LocalPlace(self.path(name))


def _open_locked(target: Path, stack: contextlib.ExitStack) -> tuple[BinaryIO, Path]:
    """A new temporary beside the target, open and locked; another if `sweep` took it in between."""
    while True:
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        file = stack.enter_context(aside.open("wb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, aside


def _walk(folder: Path, head: str, above: frozenset[str]) -> Iterator[tuple[str, int]]:
    """(name, size) of the files below, in code point order; a link back up is skipped."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted((e.name + "/" * e.is_dir(), e) for e in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _failed("list", folder, error) from error
    for name, entry in entries:
        if name.endswith("/"):
            yield from _walk(Path(entry.path), head + name, above | {real})
        elif entry.is_file():
            if not _TEMPORARY.match(name) and (size := _size(entry)) is not None:
                yield head + name, size
        elif entry.is_symlink():
            yield head + name, 0  # leads nowhere; whoever reads it will say so


def _size(entry: os.DirEntry[str]) -> int | None:
    """Its bytes; None when it was deleted since its folder was listed."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed("look up", Path(entry.path), error) from error


def _flush(file: BinaryIO, name: str) -> None:
    with action("flush", name):
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _failed(verb: str, path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot {verb} '{path}': {error.strerror or error}.")
