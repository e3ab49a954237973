"""Pictures and class folders for the tests of preprocessing, drawn by code."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from infra.storage import open_place


def pixels(seed: int, width: int = 96, height: int = 72) -> np.ndarray:
    """(height, width, 3) uint8: smooth blobs with some noise, as far as JPEG cares a photograph."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + draw.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file's bytes in a format of Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(seed: int, width: int = 96, height: int = 72) -> bytes:
    """A JPEG file."""
    return encoded(Image.fromarray(pixels(seed, width, height)), "JPEG", quality=92)


def class_folders(root: Path, *, classes: int = 3, images: int = 8, first_seed: int = 0) -> Path:
    """`classes` folders n00.. of `images` JPEGs each, of varying size and shape; the root."""
    seed = first_seed
    for label in range(classes):
        folder = root / f"n{label:02d}"
        folder.mkdir(parents=True)
        for number in range(images):
            size = (60 + 7 * (seed % 9), 50 + 11 * (seed % 5))
            (folder / f"photo.{number}.JPEG").write_bytes(jpeg(seed, *size))
            seed += 1
    return root


def tree(root: Path) -> dict[str, str]:
    """sha256 of every file below, by path: two equal trees are byte-identical datasets."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def tree_at(uri: str) -> dict[str, str]:
    """The same of a dataset anywhere, object storage included."""
    place = open_place(uri)
    return {name: hashlib.sha256(place.read(name)).hexdigest() for name in place.names()}
