"""The order of samples: a pure function of the seed and the epoch, the same for any replicas.

Shards are permuted; then the samples inside each window of consecutive shards, so that reading
stays within a few shards at a time (the dataset was permuted as a whole before it was sharded).
The epoch's order is cut into global batches; the last one is smaller where the batch does not
divide the samples, and its loss is the mean over the samples it has: none is lost or repeated.

Deviation: the 2012 program visited the batches in one fixed order every epoch (alexnet-facts,
section 8); the paper says nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train import draws

SHARDS, SAMPLES = 21, 22  # what a draw is for
WINDOW = 16  # shards whose samples mix: 16 x 1,000 pictures of about 25 kB are 400 MB

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """The order of a split with `shard_sizes` samples a shard, in global batches of `batch`."""

    shard_sizes: tuple[int, ...]
    batch: int
    seed: int
    window: int = WINDOW

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(self.shard_sizes)

    @property
    def steps(self) -> int:
        """Batches, and so updates, of an epoch; the last may be smaller."""
        return -(-self.samples // self.batch)

    def shards(self, epoch: int) -> Ids:
        """The numbers of the shards in the order in which this epoch reads them."""
        drawn = draws.bits(SHARDS, self.seed, epoch, np.arange(len(self.shard_sizes)))
        return np.argsort(drawn, kind="stable")

    def shards_near(self, step: int) -> Ids:
        """The shards that update `step` reads and those of the window after, in reading order."""
        shards = self.shards(step // self.steps)
        ends = np.cumsum([self.shard_sizes[shard] for shard in shards])
        position = step % self.steps * self.batch
        first = int(np.searchsorted(ends, position, side="right")) // self.window * self.window
        return shards[first : first + 2 * self.window]

    def epoch(self, epoch: int) -> Ids:
        """All sample ids (samples,) of epoch `epoch` (0 = first), each once."""
        starts = np.cumsum((0, *self.shard_sizes))
        shards = self.shards(epoch)
        windows = []
        for first in range(0, len(shards), self.window):
            inside = shards[first : first + self.window]
            ids = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in inside])
            drawn = draws.bits(SAMPLES, self.seed, epoch, ids)
            windows.append(ids[np.argsort(drawn, kind="stable")])
        return np.concatenate(windows)

    def batches(self, step: int) -> Iterator[Ids]:
        """The batches from update `step` of the run to the end of the epoch it lies in.

        `step` is the whole cursor: the run's updates so far.
        """
        ids = self.epoch(step // self.steps)
        for index in range(step % self.steps, self.steps):
            yield ids[index * self.batch : (index + 1) * self.batch]
