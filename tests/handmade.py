"""A tiny dataset and recipe for the tests of training, made without the pipeline.

Written straight from the format's description, so it is also a second opinion on the format.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from infra.recipes import Recipe, from_dict

COLUMNS = {
    "key": pa.string(),
    "split": pa.string(),
    "label": pa.int32(),
    "wnid": pa.string(),
    "source": pa.string(),
    "source_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "shard": pa.string(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "crc32": pa.int64(),
    "status": pa.string(),
}
TRAIN_SHARDS = (9, 10, 7)
VAL_SHARDS = (6, 5)


def write_dataset(
    folder: Path,
    *,
    train: tuple[int, ...] = TRAIN_SHARDS,
    val: tuple[int, ...] = VAL_SHARDS,
    classes: int = 3,
) -> Path:
    """Writes shards of the given sizes, the index, statistics and manifest; returns the folder."""
    rows: list[dict[str, Any]] = []
    splits = {
        name: _write_split(folder, name, sizes, classes, rows)
        for name, sizes in (("train", train), ("val", val))
    }
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    pq.write_table(pa.table(columns, pa.schema(list(COLUMNS.items()))), folder / "index.parquet")
    _write_stats(folder, sum(train))
    manifest = {
        "format": 1,
        "image": {"px": 256},
        "seed": 0,
        "decoders": {},
        "classes": [
            {"label": label, "wnid": f"n{label:08}", "words": f"class {label}"}
            for label in range(classes)
        ],
        "splits": splits,
        "index_sha256": _digest(folder / "index.parquet"),
        "stats_sha256": _digest(folder / "stats.npz"),
    }
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


def picture(split: str, number: int, label: int) -> torch.Tensor:
    """(3, 256, 256) uint8: stripes whose colour and slope tell the class, with noise."""
    noise = np.random.default_rng([number, label, len(split)])
    y, x = np.mgrid[0:256, 0:256]
    wave = np.sin((x * (label + 1) + y * (2 - label)) / 20 + noise.uniform(0, 6))
    colour = np.roll([90, 40, 10], label)[:, None, None]
    pixels = 128 + colour * wave + noise.normal(0, 20, (3, 256, 256))
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def _write_split(
    folder: Path, split: str, sizes: tuple[int, ...], classes: int, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    (folder / split).mkdir(parents=True)
    shards, number = [], 0
    for index, size in enumerate(sizes):
        name = f"{split}/{index:06}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(size):
                rows.append(_write_sample(tar, name, split, number, (number * 7) % classes))
                number += 1
        data = (folder / name).read_bytes()
        shards.append(
            {
                "name": name,
                "samples": size,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    rejected = {**rows[-1], "key": f"{split}-bad", "shard": None, "status": "not_an_image"}
    rows.append({**rejected, "offset": 0, "size": 0, "crc32": 0})
    return {"samples": number, "rejects": 1, "shards": shards}


def _write_sample(
    tar: tarfile.TarFile, shard: str, split: str, number: int, label: int
) -> dict[str, Any]:
    pixels = picture(split, number, label).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    jpeg = file.getvalue()
    key = f"{split}-{number:05}"
    for name, data in ((f"{key}.jpg", jpeg), (f"{key}.cls", str(label).encode())):
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        if name.endswith(".jpg"):
            offset = tar.offset + tarfile.BLOCKSIZE
        tar.addfile(entry, io.BytesIO(data))
    return {
        "key": key,
        "split": split,
        "label": label,
        "wnid": f"n{label:08}",
        "source": f"{key}.png",
        "source_sha256": "0" * 64,
        "width": 300,
        "height": 256,
        "shard": shard,
        "offset": offset,
        "size": len(jpeg),
        "crc32": zlib.crc32(jpeg),
        "status": "ok",
    }


def _write_stats(folder: Path, count: int) -> None:
    vectors = np.linalg.qr(np.array([[1.0, 2, 3], [2, 5, 1], [1, 1, 4]]))[0]
    np.savez(
        folder / "stats.npz",
        count=count,
        mean_image=np.full((256, 256, 3), 127.5, np.float32),
        rgb_mean=np.full(3, 127.5),
        eigenvalues=np.array([3000.0, 300.0, 30.0]),
        eigenvectors=vectors,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiny_recipe(**changes: Any) -> Recipe:
    """A two-half network of every kind of layer, small enough for a step of milliseconds.

    Changes are keyed `table__field`, e.g. `schedule__epochs=4`, or replace a whole table.
    """
    raw: dict[str, Any] = {
        "name": "tiny",
        "summary": "for tests",
        "layers": {
            "conv1": {"kind": "conv", "kernels": 8, "size": 11, "stride": 8, "sees": "own"},
            "conv2": {"kind": "conv", "kernels": 8, "size": 3, "pad": 1, "sees": "both"},
            "fc6": {"kind": "fc", "kernels": 16, "sees": "both", "bias": 1.0},
            "fc8": {"kind": "fc", "kernels": 0, "sees": "both"},
        },
        "network": {"crop_px": 224, "shrink": 2, "input_pad": [0, 0, 0, 0]},
        "optimizer": {"batch": 8, "lr": 0.002, "bias_lr": 0.002},
        "schedule": {"epochs": 3, "patience": 1},
        "compute": {"cores": 1},
    }
    for name in ("conv1", "conv2", "fc6", "fc8"):
        raw["layers"][name]["std"] = 0.05
    raw["layers"]["conv1"]["after"] = ["relu", "norm", "pool"]
    raw["layers"]["conv2"]["after"] = ["relu", "pool"]
    raw["layers"]["fc6"]["after"] = ["relu", "dropout"]
    for name, value in changes.items():
        table, _, field = name.partition("__")
        if field:
            raw[table][field] = value
        else:
            raw[table] = value
    return from_dict(raw)
