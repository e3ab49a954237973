"""The canonical layout of what is spread over the halves: weights, velocities.

A canonical tensor is the halves' parts joined along dimension 0, half a's first: what a grouped
network on one device would hold. Files hold only this, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infra.errors import DataError


def join(parts: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """Canonical tensors by name: new, contiguous, float32, on the CPU."""
    return {
        name: torch.cat([share.detach().to("cpu", torch.float32) for share in shares]).contiguous()
        for name, shares in parts.items()
    }


@torch.no_grad()
def spread(state: Mapping[str, Tensor], parts: Mapping[str, Sequence[Tensor]]) -> None:
    """Copies canonical tensors into the halves' parts.

    Raises `DataError` naming what is missing, too many or misshapen; nothing is changed then.
    """
    for name in sorted(set(state) ^ set(parts)):
        have, lack = ("file", "network") if name in state else ("network", "file")
        raise DataError(f"the {have} holds '{name}', which the {lack} lacks: another recipe?")
    for name, shares in parts.items():
        shape = (sum(map(len, shares)), *shares[0].shape[1:])
        if state[name].shape != shape:
            found = tuple(state[name].shape)
            raise DataError(f"'{name}' has shape {found}; the recipe's network needs {shape}.")
    for name, shares in parts.items():
        pieces = torch.split(state[name], [len(share) for share in shares])
        for share, piece in zip(shares, pieces, strict=True):
            share.copy_(piece)
