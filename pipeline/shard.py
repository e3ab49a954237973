"""One task: a shard's images, read, made square, encoded, summed, packed, published.

A pure function of its `ShardTask` and the source's bytes. The shard is written first, its commit
after it. A bad image is a row with a reason, never an exception.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from infra.errors import DataError, MissingError
from infra.manifest import Shard, sha256
from infra.storage import Place, open_place
from pipeline.careful import Decoder, decoder
from pipeline.commits import OK, Commit, Made, Row, write_commit
from pipeline.header import MAX_FILE, BadImage
from pipeline.image import Picture, encode
from pipeline.plan import RECORD, Item, ShardTask
from pipeline.sums import Sums
from pipeline.tables import ROW_GROUP, read_rows
from pipeline.tar import Tar

GROUP, GROUP_BYTES = 32, 16 << 20  # images that go through the steps together
Given = TypeVar("Given")
Result = TypeVar("Result")


def make_shard(task: ShardTask) -> Made:
    """Makes and publishes one shard and its commit; raises `StorageError` when it cannot."""
    torch.set_num_threads(1)  # one task is one core
    dataset, source = open_place(task.dataset), open_place(task.source)
    tar, sums = Tar(), Sums()
    with decoder(careful=task.careful) as decode:
        maker = _Maker(task, _reader(source, task.items), tar, sums, decode)
        rows = tuple(row for group in _groups(task.items) for row in maker.rows(group))
    data = tar.finish()
    commit = Commit(
        plan=task.plan,
        shard=Shard(
            name=task.name,
            samples=sum(row.status == OK for row in rows),
            bytes=len(data),
            sha256=sha256(data),
        ),
        rows=rows,
        moments=sums.moments() if task.split == "train" else None,
    )
    _still_ours(dataset, task)
    dataset.write(task.name, data)
    write_commit(dataset, commit)
    return commit.made()


def _still_ours(dataset: Place, task: ShardTask) -> None:
    """Raises `DataError` when the dataset's plan is no longer the task's.

    Where conditional PUTs are not atomic (Swift), of two runs with different plans that start at
    once both may believe that the place is theirs: the one whose plan was replaced stops here,
    before it puts a shard of its own among the other's. No plan at all is `publish`'s to refuse.
    """
    with contextlib.suppress(MissingError):
        if sha256(dataset.read(RECORD)) != task.plan:
            raise DataError(
                f"another run has begun '{dataset.uri}' with another plan; "
                f"let that one finish, or give a new place for the dataset."
            )


def _groups(items: tuple[Item, ...]) -> Iterator[list[Item]]:
    """The items in their order, up to `GROUP` and some `GROUP_BYTES` of source files at a time."""
    group, size = list[Item](), 0
    for item in items:
        group.append(item)
        size += item.size
        if len(group) == GROUP or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


@dataclass(frozen=True, slots=True)
class _Maker:
    task: ShardTask
    read: Callable[[Item], bytes]
    tar: Tar
    sums: Sums
    decode: Decoder

    def rows(self, group: list[Item]) -> list[Row]:
        """Adds a group of images to the shard; for each its row of the index, or the reject's.

        All are read, then all decoded, and so on: a step's code and tables stay in the processor's
        caches, and a picture costs a tenth less than with all steps for each in turn.
        """
        files = [_or_reason(self.read, item) for item in group]
        digests = [sha256(file) if isinstance(file, bytes) else None for file in files]
        pictures = [
            _or_reason(self.decode, file) if isinstance(file, bytes) else file for file in files
        ]
        if self.task.split == "train":
            for picture in pictures:
                if isinstance(picture, Picture):
                    self.sums.add(picture.pixels)
        jpegs = [
            encode(picture.pixels, self.task.rule) if isinstance(picture, Picture) else b""
            for picture in pictures
        ]
        found = zip(group, digests, pictures, jpegs, strict=True)
        return [
            self._kept(item, digest, picture, jpeg)
            if isinstance(picture, Picture)
            else _refused(item, digest, picture)
            for item, digest, picture, jpeg in found
        ]

    def _kept(self, item: Item, digest: str | None, picture: Picture, jpeg: bytes) -> Row:
        offset = self.tar.add(f"{item.key}.jpg", jpeg)
        self.tar.add(f"{item.key}.cls", str(item.label).encode())
        return Row(
            key=item.key,
            label=item.label,
            source=item.path,
            source_sha256=digest,
            width=picture.width,
            height=picture.height,
            offset=offset,
            size=len(jpeg),
            crc32=zlib.crc32(jpeg),
            status=OK,
        )


def _refused(item: Item, digest: str | None, reason: BadImage) -> Row:
    return Row(
        key=item.key,
        label=item.label,
        source=item.path,
        source_sha256=digest,
        status=str(reason),
    )


def _or_reason(act: Callable[[Given], Result], given: Given) -> Result | BadImage:
    """What the act makes of it, or why it refuses."""
    try:
        return act(given)
    except BadImage as reason:
        return reason


def _reader(source: Place, items: tuple[Item, ...]) -> Callable[[Item], bytes]:
    """A function from an item to its file's bytes; it raises `BadImage` where there are none.

    Rows of Parquet are read ahead, a row group at a time.
    """
    rows = {(item.file, item.offset) for item in items if item.file and ROW_GROUP in item.file}
    ahead = read_rows(source, rows)

    def read(item: Item) -> bytes:
        if item.size > MAX_FILE:
            raise BadImage("too_large")
        if item.file is None:
            try:
                return source.read(item.path)
            except MissingError:
                raise BadImage("missing") from None  # it was there when the source was listed
        if (item.file, item.offset) in ahead:
            return ahead.pop((item.file, item.offset))
        return source.read_range(item.file, item.offset, item.size)

    return read
