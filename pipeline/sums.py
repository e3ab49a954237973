"""Adding images up, exactly and fast: what a shard's task does for each picture."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.moments import PIXELS, Moments
from pipeline.rule import SIDE, Pixels

MIDDLE = 128  # taken off every value, so that products stay below 2^14
BLOCK = 1024  # pixels whose products are summed in float32: 1024 * 128^2 = 2^24, the last exact one
FLUSH = 65_536  # images whose centred values fit float32's integers, 2^24 / 256 to be safe


class Sums:
    """The moments of a shard in the making.

    Every float32 sum here is of integers and stays within 2^24, where float32 is exact; float64
    adds these up, exact to 2^53. Buffers are kept: fresh ones would cost more than the sums.
    """

    def __init__(self) -> None:
        self._count = 0
        self._centred = torch.empty(SIDE, SIDE, 3)
        self._pixels = torch.zeros(SIDE, SIDE, 3)  # of centred values
        self._outer = torch.zeros(3, 3, dtype=torch.float64)  # of centred values
        self._products = torch.empty(PIXELS // BLOCK, 3, 3)
        self._flushed = np.zeros((SIDE, SIDE, 3), np.int64)

    def add(self, image: Pixels) -> None:
        """Adds one (256, 256, 3) uint8 image."""
        centred = self._centred.copy_(torch.from_numpy(image)).sub_(MIDDLE)
        self._pixels += centred
        blocks = centred.view(-1, BLOCK, 3)
        torch.bmm(blocks.transpose(1, 2), blocks, out=self._products)
        self._outer += self._products.sum(dim=0, dtype=torch.float64)
        self._count += 1
        if self._count % FLUSH == 0:
            self._flush()

    def _flush(self) -> None:
        self._flushed += self._pixels.numpy().astype(np.int64)
        self._pixels.zero_()

    def moments(self) -> Moments:
        """What has been added so far, of the values as they were.

        With x = y + m: sum of x x^T = sum of y y^T + m (y 1^T + 1 y^T summed) + n m^2.
        """
        self._flush()
        centred = self._flushed.sum(axis=(0, 1))
        outer = self._outer.numpy().astype(np.int64)
        outer = outer + MIDDLE * (centred[:, None] + centred[None])
        return Moments(
            count=self._count,
            pixel_sum=self._flushed + MIDDLE * self._count,
            rgb_outer=outer + self._count * PIXELS * MIDDLE**2,
        )
