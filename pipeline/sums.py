"""Adding images up, exactly and fast: what a shard's task does for each picture."""

from __future__ import annotations

import numpy as np

from pipeline.moments import PIXELS, Moments
from pipeline.rule import SIDE, Pixels

BLOCK = 256  # pixels whose products one float32 sums: 256 * 255^2 < 2^24, where integers are exact
FLUSH = 257  # images whose values one uint16 sums: 257 * 255 = 2^16 - 1


class Sums:
    """The moments of a shard in the making.

    Every sum here is of integers that its type holds exactly, whatever the order of adding: uint16
    for a pixel of `FLUSH` images, float32 for the products of `BLOCK` pixels, float64 and int64
    beyond. Buffers are kept: fresh ones would cost more than the sums.
    """

    def __init__(self) -> None:
        self._count = 0
        self._planes = np.empty((3, PIXELS // BLOCK, BLOCK), np.float32)  # of one image
        self._products = np.empty((6, PIXELS // BLOCK), np.float32)  # rr, gg, bb, rg, gb, rb
        self._recent = np.zeros((SIDE, SIDE, 3), np.uint16)  # since the last flush
        self._pixels = np.zeros((SIDE, SIDE, 3), np.int64)
        self._outer = np.zeros(6)

    def add(self, image: Pixels) -> None:
        """Adds one (256, 256, 3) uint8 image."""
        np.add(self._recent, image, out=self._recent)
        planes, products = self._planes, self._products
        np.copyto(planes.reshape(3, PIXELS), image.reshape(PIXELS, 3).T)
        np.vecdot(planes, planes, out=products[:3])
        np.vecdot(planes[:2], planes[1:], out=products[3:5])
        np.vecdot(planes[0], planes[2], out=products[5])
        self._outer += products.sum(axis=-1, dtype=np.float64)
        self._count += 1
        if self._count % FLUSH == 0:
            self._flush()

    def _flush(self) -> None:
        self._pixels += self._recent
        self._recent.fill(0)

    def moments(self) -> Moments:
        """What has been added so far."""
        self._flush()
        rr, gg, bb, rg, gb, rb = self._outer.astype(np.int64)
        return Moments(
            count=self._count,
            pixel_sum=self._pixels.copy(),
            rgb_outer=np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]]),
        )
