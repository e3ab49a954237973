"""One task: a shard's images, read, made square, encoded, summed, packed, published.

A pure function of its `ShardTask` and the source's bytes. The shard is written first, its commit
after it. A bad image is a row with a reason, never an exception.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from infra.errors import DataError, MissingError
from infra.manifest import Shard, sha256
from infra.storage import Place, open_place
from pipeline.careful import Decoder, decoder
from pipeline.commits import OK, Commit, Made, Row, write_commit
from pipeline.header import MAX_FILE, BadImage
from pipeline.image import encode
from pipeline.plan import RECORD, Item, ShardTask
from pipeline.sums import Sums
from pipeline.tables import ROW_GROUP, read_rows
from pipeline.tar import Tar


def make_shard(task: ShardTask) -> Made:
    """Makes and publishes one shard and its commit; raises `StorageError` when it cannot."""
    torch.set_num_threads(1)  # one task is one core
    dataset, source = open_place(task.dataset), open_place(task.source)
    tar, sums = Tar(), Sums()
    with decoder(careful=task.careful) as decode:
        maker = _Maker(task, _reader(source, task.items), tar, sums, decode)
        rows = tuple(maker.row(item) for item in task.items)
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


@dataclass(frozen=True, slots=True)
class _Maker:
    task: ShardTask
    read: Callable[[Item], bytes]
    tar: Tar
    sums: Sums
    decode: Decoder

    def row(self, item: Item) -> Row:
        """Adds one image to the shard; its row of the index, or the reject's."""
        data: bytes | None = None
        try:
            data = self.read(item)
            picture = self.decode(data)
        except BadImage as reason:
            return Row(
                key=item.key,
                label=item.label,
                source=item.path,
                source_sha256=None if data is None else sha256(data),
                width=None,
                height=None,
                offset=None,
                size=None,
                crc32=None,
                status=str(reason),
            )
        jpeg = encode(picture.pixels, self.task.rule)
        offset = self.tar.add(f"{item.key}.jpg", jpeg)
        self.tar.add(f"{item.key}.cls", str(item.label).encode())
        if self.task.split == "train":
            self.sums.add(picture.pixels)
        return Row(
            key=item.key,
            label=item.label,
            source=item.path,
            source_sha256=sha256(data),
            width=picture.width,
            height=picture.height,
            offset=offset,
            size=len(jpeg),
            crc32=zlib.crc32(jpeg),
            status=OK,
        )


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
