"""This process's place among the replicas that train one member together.

A replica is one two-half network on two devices. Replicas share each global batch: replica r of R
takes the samples from n*r//R to n*(r+1)//R, so parts are disjoint, cover the batch, and differ by
at most one sample, also in the last, smaller batch of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import distributed, nn

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """Replica `rank` of `count`; `devices` hold the network's first and second half.

    With `count` above 1 a torch process group must be there: gloo for CPU, NCCL for CUDA.
    """

    rank: int = 0
    count: int = 1
    devices: tuple[torch.device, torch.device] = (CPU, CPU)

    def part(self, size: int) -> slice:
        """Which of `size` samples in order are this replica's; may be empty."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the replicas in its backward pass.

        No `device_ids`: DistributedDataParallel takes a module on two devices only without them.
        """
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the replicas, in float64 (whole numbers stay exact)."""
        if self.count == 1:
            return [float(value) for value in values]
        sums = torch.tensor(list(values), dtype=torch.float64, device=self.devices[0])
        distributed.all_reduce(sums)
        return [float(value) for value in sums.tolist()]

    def any(self, flag: bool) -> bool:
        """True on all replicas when it is true on one."""
        return self.total([float(flag)])[0] > 0


ALONE = Replica()
