"""Local response normalisation (section 3.3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from infra.recipes import ResponseNorm


def response_norm(x: Tensor, norm: ResponseNorm) -> Tensor:
    """x / (k + alpha * sum of x^2 over `size` neighbouring maps)^beta; x: (N, C, H, W).

    alpha multiplies the plain sum, as in the paper; windows are clipped at the first and last map.
    """
    return F.local_response_norm(x, norm.size, norm.alpha * norm.size, norm.beta, norm.k)
