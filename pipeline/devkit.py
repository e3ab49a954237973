"""The development kit of ILSVRC-2012: class names, and the labels of the validation images."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from dataclasses import dataclass

from infra.errors import DataError
from infra.manifest import ClassName
from infra.storage import Place

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META = "data/meta.mat"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
MAX_UNPACKED = 64 << 20  # bytes; the real one has 2.8 million


@dataclass(frozen=True, kw_only=True, slots=True)
class Devkit:
    """`classes` sorted by wnid; `val_labels` in the order of the images' numbers; `official`
    numbers of train images by label."""

    classes: tuple[ClassName, ...]
    val_labels: tuple[int, ...]
    official: tuple[int, ...]
    ids: tuple[int, ...]  # ILSVRC2012_ID by label, from 1


def read_devkit(place: Place) -> Devkit:
    """Reads the devkit beside the archives; `DataError` when it is absent or not the devkit."""
    files = _unpack(place)
    ids, wnids, words, counts = _synsets(files[META])
    order = sorted(range(len(wnids)), key=wnids.__getitem__)
    label_of = {ids[index]: label for label, index in enumerate(order)}
    try:
        val_labels = tuple(label_of[int(line)] for line in files[TRUTH].split())
    except (ValueError, KeyError) as error:
        raise DataError(f"{TRUTH} in '{DEVKIT}' names no class: {error}.") from None
    return Devkit(
        classes=tuple(
            ClassName(label=label, wnid=wnids[index], words=words[index])
            for label, index in enumerate(order)
        ),
        val_labels=val_labels,
        official=tuple(counts[index] for index in order),
        ids=tuple(ids[index] for index in order),
    )


def _unpack(place: Place) -> dict[str, bytes]:
    """The two files, by their path below the devkit's folder; read as a stream, never extracted."""
    if place.size(DEVKIT) is None:
        raise DataError(f"'{place.uri}' has no '{DEVKIT}', which holds the labels; put it there.")
    found: dict[str, bytes] = {}
    try:
        raw = gzip.GzipFile(fileobj=io.BytesIO(place.read(DEVKIT))).read(MAX_UNPACKED + 1)
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if member.isreg() and name in (META, TRUTH):
                    file = archive.extractfile(member)
                    found[name] = file.read() if file else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"'{DEVKIT}' in '{place.uri}' cannot be read: {error}.") from None
    if found.keys() != {META, TRUTH}:
        raise DataError(f"'{DEVKIT}' in '{place.uri}' lacks {META} or {TRUTH}.")
    return found


def _synsets(raw: bytes) -> tuple[list[int], list[str], list[str], list[int]]:
    """ILSVRC2012_ID, wnid, words and number of train images of the classes without children."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = loadmat(io.BytesIO(raw), squeeze_me=True)["synsets"]
        leaves = [row for row in table if int(row["num_children"]) == 0]
        return (
            [int(row["ILSVRC2012_ID"]) for row in leaves],
            [str(row["WNID"]) for row in leaves],
            [str(row["words"]) for row in leaves],
            [int(row["num_train_images"]) for row in leaves],
        )
    except (
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        NotImplementedError,
        MatReadError,
    ) as error:
        raise DataError(f"{META} in '{DEVKIT}' is not the class table: {error}.") from None
