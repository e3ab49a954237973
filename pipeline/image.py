"""One picture: from a source file's bytes to 256x256 RGB pixels, and from these to a JPEG.

JPEG is decoded by torchvision, everything else by Pillow; both are resized by torch, on bytes.
Pictures are used as stored: no EXIF rotation, no colour profile; of an animation the first frame;
transparency over white; 16 bits a channel become 8 by dropping the lower ones.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from pipeline.header import PILLOW_ERRORS, PILLOW_FORMATS, BadImage, examine
from pipeline.rule import SIDE, ImageRule, Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """`pixels` (256, 256, 3) uint8, and the size in pixels of the picture they came from."""

    pixels: Pixels
    width: int
    height: int


def square(data: bytes) -> Picture:
    """The picture in a source file's bytes; raises `BadImage` with the reason."""
    header = examine(data, SIDE)
    pixels = decode_rgb(data) if header.format == "JPEG" else _decode_other(data)
    height, width = pixels.shape[:2]
    return Picture(pixels=_central(_resize(pixels)), width=width, height=height)


def encode(pixels: Pixels, rule: ImageRule) -> bytes:
    """JPEG bytes of (H, W, 3) uint8 pixels; baseline, the standard Huffman tables."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", quality=rule.jpeg_quality, subsampling=rule.jpeg_subsampling
    )
    return file.getvalue()


def decode_rgb(data: bytes) -> torch.Tensor:
    """(H, W, 3) uint8 of a JPEG whose header has been examined; `BadImage` when it is corrupt."""
    with warnings.catch_warnings():
        # the buffer is read-only, and only read; torchvision 0.29 announces the end of its decoder
        warnings.simplefilter("ignore")
        try:
            raw = torch.frombuffer(data, dtype=torch.uint8)
            planes: torch.Tensor = decode_jpeg(raw, mode=ImageReadMode.RGB)
        except RuntimeError:
            raise BadImage("corrupt") from None
    return planes.permute(1, 2, 0)  # (H, W, 3)


def _decode_other(data: bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
                return torch.from_numpy(np.array(_rgb(image)))
        except PILLOW_ERRORS:
            raise BadImage("corrupt") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("unsupported_pixels")  # 32 bits a pixel have no agreed white
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _resize(pixels: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) to the shorter side 256, the longer one rounded to the nearest pixel."""
    height, width, _ = pixels.shape
    short = min(height, width)
    size = [(2 * side * SIDE + short) // (2 * short) for side in (height, width)]
    if size == [height, width]:
        return pixels
    # batch first, then channels moved: the strides that select torch's fast channels-last path
    batch = pixels.contiguous()[None].permute(0, 3, 1, 2)
    resized: torch.Tensor = torch.nn.functional.interpolate(
        batch, size, mode="bilinear", antialias=True
    )
    return resized[0].permute(1, 2, 0)


def _central(pixels: torch.Tensor) -> Pixels:
    top, left = ((side - SIDE) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE].numpy())
