"""Reads the samples of one split of a dataset: by number, checked, decoded, in any order.

A sample's number is its row among the kept samples of its split in `index.parquet`, which is the
order of the shards and of the pictures inside them. Every picture's bytes are compared with the
CRC-32 of the index, and the index with the digest of `dataset.json`, before they are used.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from infra.errors import DamageError, DataError
from infra.manifest import DatasetManifest, read_checked
from infra.storage import Place
from train.shards import FOLDER, Shards

SIDE = 256  # pixels of a stored picture's sides (section 2 of the paper)
PICTURE_BYTES = 3 * SIDE * SIDE
CACHE_BYTES = 1 << 30  # of decoded pictures kept in memory: 5,461 of them
_COLUMNS = ["key", "split", "label", "shard", "offset", "size", "crc32", "status"]


class Samples:
    """The kept samples of one split; safe to use from several threads.

    `labels` (samples,) int64, `shard_sizes` samples in each shard in order, `digest` the dataset's
    identity. Raises `DataError` when there is no complete dataset, or no such split in it, and
    `DamageError` when its index is not what the manifest says.
    """

    def __init__(
        self,
        place: Place,
        split: str,
        *,
        cache_bytes: int = CACHE_BYTES,
        shard_folder: Path = FOLDER,
    ) -> None:
        self.place, self.split = place, split
        self.manifest, self.digest = DatasetManifest.read(place)
        if split not in self.manifest.splits or not self.manifest.splits[split].samples:
            raise DataError(f"'{place.uri}' has no samples in its split '{split}'.")
        shards = self.manifest.splits[split].shards
        self.shard_sizes = [shard.samples for shard in shards]
        table = _index(place, self.manifest, split)
        self._keys = table["key"]
        self.shards = Shards(place, shards, folder=shard_folder)
        self._shard_of = np.repeat(np.arange(len(shards)), self.shard_sizes)
        self._offsets, self._sizes, self._crcs = (
            table[name].to_numpy() for name in ("offset", "size", "crc32")
        )
        self.labels = table["label"].to_numpy().astype(np.int64)
        self._cache: dict[int, Tensor] = {}
        self._room = cache_bytes // PICTURE_BYTES
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Classes of the dataset, whether or not this split has samples of each."""
        return len(self.manifest.classes)

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The samples' keys, as they are named in the shards."""
        return [str(self._keys[int(number)].as_py()) for number in ids]

    def fetch(self, ids: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Pictures (N, 3, 256, 256) uint8 RGB and labels (N,) int64 of some samples, in order.

        Raises `DamageError` naming the sample whose bytes are not the recorded ones.
        """
        images = torch.empty((len(ids), 3, SIDE, SIDE), dtype=torch.uint8)
        for position, number in enumerate(ids):
            images[position] = self._picture(int(number))
        return images, torch.from_numpy(self.labels[np.asarray(ids, dtype=np.int64)])

    def _picture(self, number: int) -> Tensor:
        cached = self._cache.get(number)
        if cached is not None:
            return cached
        picture = self._decode(number)
        # An epoch passes every sample once, so evicting the oldest would evict what comes next:
        # the first ones to come stay.
        if len(self._cache) < self._room:
            with self._lock:
                self._cache[number] = picture
        return picture

    def _decode(self, number: int) -> Tensor:
        # registers torch.ops.image; three seconds, which only processes that decode shall pay
        from torchvision.io import ImageReadMode

        data = torch.frombuffer(bytearray(self._bytes(number)), dtype=torch.uint8)
        try:
            # torchvision.io.decode_jpeg is this operator and, since 0.29, a warning for each call,
            # which cannot be silenced thread by thread
            picture: Tensor = torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, False)
        except RuntimeError as error:
            raise DamageError(f"{self._name(number)} is not a JPEG ({error}).") from None
        if picture.shape != (3, SIDE, SIDE):
            raise DataError(
                f"{self._name(number)} is {tuple(picture.shape)}, not (3, {SIDE}, {SIDE})."
            )
        return picture

    def _bytes(self, number: int) -> bytes:
        shard = int(self._shard_of[number])
        offset, size = int(self._offsets[number]), int(self._sizes[number])
        for _ in range(2):  # storage sometimes errs once: read again before giving up
            data = self.shards.read(shard, offset, size)
            if zlib.crc32(data) == int(self._crcs[number]):
                return data
            self.shards.forget(shard)
        raise DamageError(
            f"{self._name(number)} is damaged: its bytes do not match the index; "
            "run `septet verify` on the dataset."
        )

    def _name(self, number: int) -> str:
        shard = self.shards.shards[self._shard_of[number]].name
        return f"sample '{self.keys([number])[0]}' of '{shard}' in '{self.place.uri}'"


def _index(place: Place, manifest: DatasetManifest, split: str) -> pa.Table:
    """The kept rows of a split in index order; their number and shards agree with the manifest."""
    data = read_checked(place, "index.parquet", manifest.index_sha256)
    try:
        table = pq.read_table(
            pa.BufferReader(data),
            columns=_COLUMNS,
            filters=[("split", "=", split), ("status", "=", "ok")],
            use_threads=False,  # Arrow's may abort a process that ends soon after
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"index.parquet in '{place.uri}' is not an index: {error}.") from None
    shards = manifest.splits[split].shards
    named = np.repeat([shard.name for shard in shards], [shard.samples for shard in shards])
    if table["shard"].to_pylist() != named.tolist():
        raise DamageError(
            f"index.parquet in '{place.uri}' does not list the samples of split '{split}' "
            "as dataset.json counts them."
        )
    labels = table["label"].to_numpy()
    if labels.min() < 0 or labels.max() >= len(manifest.classes):
        raise DataError(
            f"index.parquet in '{place.uri}' has labels outside 0-{len(manifest.classes) - 1}."
        )
    return table
