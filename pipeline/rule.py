"""The image rule and what decides about bytes; kept apart so that the driver need not load torch.

The paper, section 2: the shorter side to 256, then the central 256x256. Its filter is not known;
here it is an antialiased bilinear one on bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

SIDE = 256  # pixels of a stored picture's side
Pixels = NDArray[np.uint8]  # (256, 256, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRule:
    """How pixels come to be; recorded in the manifest and part of the plan."""

    short_side: int = SIDE
    crop: str = "central 256x256"
    filter: str = "bilinear, antialiased, uint8"
    orientation: str = "as stored"
    animation: str = "first frame"
    transparency: str = "over white"
    jpeg_quality: int = 90
    jpeg_subsampling: str = "4:2:0"

    def record(self) -> dict[str, str | int]:
        """As plain values."""
        return dataclasses.asdict(self)


def decoders() -> dict[str, str]:
    """The versions that decide about pixels and bytes."""
    from PIL import features

    names = ("torch", "torchvision", "pillow")
    return {name: version(name).partition("+")[0] for name in names} | {
        "libjpeg": str(features.version("jpg"))
    }
