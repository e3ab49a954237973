"""Adding images up, exactly and fast: what a shard's task does for each picture."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.moments import Moments
from pipeline.rule import SIDE, Pixels


class Sums:
    """The moments of a shard in the making."""

    def __init__(self) -> None:
        self._count = 0
        self._pixels = torch.zeros(SIDE, SIDE, 3, dtype=torch.int32)  # enough for 8 million images
        self._outer = torch.zeros(3, 3, dtype=torch.float64)

    def add(self, image: Pixels) -> None:
        """Adds one (256, 256, 3) uint8 image.

        Products are summed in float32 over rows of 256 pixels only: 256 * 255^2 = 16,646,400 is
        below 2^24, so each of these sums is an exact integer, and float64 adds them exactly.
        """
        raw = torch.from_numpy(image)
        self._pixels += raw
        rows = raw.float()
        self._outer += torch.bmm(rows.transpose(1, 2), rows).sum(dim=0, dtype=torch.float64)
        self._count += 1

    def moments(self) -> Moments:
        """What has been added so far."""
        return Moments(
            count=self._count,
            pixel_sum=self._pixels.numpy().astype(np.int64),
            rgb_outer=self._outer.numpy().astype(np.int64),
        )
