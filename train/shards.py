"""Byte ranges of a dataset's shards; those of object storage through a folder on this machine.

A shard is fetched whole, compared with the manifest's sha256, and kept under that digest, so a
cached file is never stale and members, seeds and replicas on one machine share it. Shards on disk
are read where they lie.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from infra.errors import DamageError, SeptetError, StorageError
from infra.manifest import Shard
from infra.storage import LocalPlace, Place

FOLDER = Path("~/.cache/septet/shards")
CAP_BYTES = 64 << 30  # of cached shards on a machine
BLOCK = 1 << 20


class Shards:
    """The shards of one split by number; safe to use from several threads and processes.

    `folder` holds at most `cap_bytes`, the longest unused going first; a shard larger than that is
    held all the same while it is the newest.
    """

    def __init__(
        self,
        place: Place,
        shards: Sequence[Shard],
        *,
        folder: Path = FOLDER,
        cap_bytes: int = CAP_BYTES,
    ) -> None:
        self.place, self.shards = place, tuple(shards)
        self.folder, self.cap_bytes = folder.expanduser(), cap_bytes
        self.remote = not isinstance(place, LocalPlace)
        self._locks = [threading.Lock() for _ in self.shards]
        self._ahead: ThreadPoolExecutor | None = None
        self._expected: set[int] = set()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of a shard from `offset`.

        Raises `DamageError` when what storage holds is not the manifest's shard, `StorageError`.
        """
        if not self.remote:
            return self.place.read_range(self.shards[number].name, offset, size)
        for _ in range(3):  # another process may evict the file between fetching and opening it
            try:
                with self._fetched(number).open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            except FileNotFoundError:
                continue
        raise StorageError(
            f"'{self.folder}' loses shards as soon as they come; it is too small for this dataset."
        )

    def forget(self, number: int) -> None:
        """Drops a cached shard whose bytes proved wrong; the next read fetches it again."""
        if self.remote:
            self._path(number).unlink(missing_ok=True)

    def expect(self, numbers: Iterable[int]) -> None:
        """Fetches shards in the background that will be read soon, in this order."""
        if not self.remote:
            return
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(2, thread_name_prefix="shards")
        coming = list(numbers)
        for number in coming:
            if number not in self._expected:
                self._ahead.submit(self._fetch_quietly, number)
        self._expected = set(coming)

    def close(self) -> None:
        """Forgets what is expected."""
        if self._ahead is not None:
            self._ahead.shutdown(wait=True, cancel_futures=True)
            self._ahead = None

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.shards[number].sha256}.tar"

    def _fetch_quietly(self, number: int) -> None:
        with suppress(SeptetError):  # whoever reads the shard meets the error again, and tells it
            self._fetched(number)

    def _fetched(self, number: int) -> Path:
        path = self._path(number)
        with self._locks[number]:
            if path.is_file():
                with suppress(FileNotFoundError):
                    os.utime(path)  # what eviction goes by
                return path
            aside = self.folder / f".{path.name}.{uuid.uuid4().hex}.tmp"
            try:
                self._download(number, aside)
                self._make_room(self.shards[number].bytes)
                aside.replace(path)
            finally:
                aside.unlink(missing_ok=True)
        return path

    def _download(self, number: int, aside: Path) -> None:
        shard = self.shards[number]
        for _ in range(2):  # a transfer may err once: fetch again before giving up
            self.place.download(shard.name, aside)
            if _sha256(aside) == shard.sha256:
                return
        raise DamageError(
            f"'{shard.name}' in '{self.place.uri}' is damaged: its sha256 is not the manifest's; "
            "run `septet verify` on the dataset."
        )

    def _make_room(self, size: int) -> None:
        held: list[tuple[int, int, Path]] = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):
                found = path.stat()
                held.append((found.st_mtime_ns, found.st_size, path))
        total = sum(bytes_ for _, bytes_, _ in held) + size
        for _, bytes_, path in sorted(held):
            if total <= self.cap_bytes:
                return
            path.unlink(missing_ok=True)
            total -= bytes_


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
