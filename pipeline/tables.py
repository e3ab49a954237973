"""Sources of Parquet files with image bytes and labels, as on the Hugging Face hub."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DamageError, DataError
from infra.manifest import ClassName
from infra.storage import Place
from pipeline.listing import Columns, Listing

SPLITS = {"train": "train", "validation": "val", "val": "val", "valid": "val", "test": ""}
WINDOW = 32  # row groups (of the hub's: 100 images, 11 MB) whose images are mixed with each other
ROW_GROUP = ".parquet#"  # in the address of a row group, FILE#GROUP


class RangedFile(io.RawIOBase):
    """An object in a place as a file that can be read at any position."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._size, self._at = place.size(name) or 0, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the position on."""
        left = max(0, self._size - self._at)
        size = left if size < 0 else min(size, left)
        data = self._place.read_range(self._name, self._at, size) if size else b""
        self._at += size
        return data


def parquet(place: Place) -> dict[str, Listing]:
    """Files whose names begin with a split's; columns `image` (struct with `bytes`) and `label`.

    Class names come from the hub's schema metadata, else they are the numbers. A row is addressed
    by its row group (the listing's group) and its position there (the offset); its size is not
    known before it is read, so it is listed as 0. Images are mixed within windows of row groups.
    """
    splits: dict[str, Columns] = {}
    names: list[str] = []
    for name in (name for name in place.names() if name.endswith(".parquet")):
        base = name.rpartition("/")[2].partition("-")[0].partition(".")[0]
        split = SPLITS.get(base, SPLITS.get(name.partition("/")[0], "train"))
        if split:
            columns = splits.setdefault(split, Columns())
            names = _list_file(place, name, columns) or names
    if "train" not in splits:
        raise DataError(f"'{place.uri}' holds no Parquet files of a train split.")
    highest = max(max(columns.labels, default=0) for columns in splits.values())
    words = names or [f"class {number}" for number in range(highest + 1)]
    classes = [ClassName(label=n, wnid=f"{n:05d}", words=text) for n, text in enumerate(words)]
    return {split: columns.listing(place.uri, classes, WINDOW) for split, columns in splits.items()}


def _list_file(place: Place, name: str, columns: Columns) -> list[str]:
    """Adds a file's rows; the class names its schema knows."""
    try:
        file = pq.ParquetFile(RangedFile(place, name))
        _check_schema(file.schema_arrow)
        for group in range(file.num_row_groups):
            columns.open(f"{name}#{group}/", f"{name}#{group}")
            found = file.read_row_group(group, columns=["label"], use_threads=False)
            labels = found["label"].to_pylist()
            for row, label in enumerate(labels):
                if not isinstance(label, int) or label < 0:
                    raise DataError(f"row {row} of group {group} of '{name}' has no label.")
                columns.add(str(row), label, 0, row)
        return _hub_names(file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{name}' in '{place.uri}' is not readable Parquet: {error}.") from None


def _check_schema(schema: pa.Schema) -> None:
    image = schema.field("image").type if "image" in schema.names else None
    if "label" not in schema.names or image is None or not pa.types.is_struct(image):
        raise DataError(
            "the Parquet files have no column 'label', or no 'image' with bytes in it; "
            "rename the columns as the Hugging Face hub has them."
        )


def _hub_names(schema: pa.Schema) -> list[str]:
    raw = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(raw)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names]


def read_rows(place: Place, rows: Iterable[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
    """The image bytes of (row group, row) pairs; each group is read once. A null gives b""."""
    wanted: dict[str, list[int]] = defaultdict(list)
    for address, row in rows:
        wanted[address].append(row)
    found: dict[tuple[str, int], bytes] = {}
    for address, numbers in sorted(wanted.items()):
        name, _, group = address.rpartition("#")
        try:
            file = pq.ParquetFile(RangedFile(place, name))
            # Arrow's threads may outlive the file of ours they read, and abort an ending process
            table = file.read_row_group(int(group), columns=["image"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DamageError(f"row group {group} of '{name}' cannot be read: {error}.") from None
        images = table["image"]
        for row in numbers:
            found[address, row] = (images[row].as_py() or {}).get("bytes") or b""
    return found
