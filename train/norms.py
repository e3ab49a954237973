"""Response normalisation over neighbouring maps (section 3.3) or neighbouring pixels (2012 source).

    y = x / d^beta,  d = k + alpha * sum of x^2 over a window

Written out with its gradient, because `torch.nn.functional.local_response_norm` pads, pools in 3-D
and keeps every intermediate: here only x is kept, and on CPUs the arithmetic runs over pieces that
stay in the cache. Forward and backward of half of conv1's maps (128 x 48 x 55 x 55, float32, one
2.8 GHz core): 0.24 s against 1.45 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.recipes import ResponseNorm, SpatialNorm

PIECE = 1 << 16  # numbers that a core works on at a time: 256 KiB of float32 a temporary


def response_norm(x: Tensor, norm: ResponseNorm, groups: int = 1) -> Tensor:
    """x / (k + alpha * sum of x^2 over `size` neighbouring maps)^beta; x: (N, C, H, W).

    alpha multiplies the plain sum, as in the paper; windows are clipped at the first and last map
    of each of the `groups` equal parts of the maps.
    """
    window = _Window(size=norm.size, k=norm.k, alpha=norm.alpha, beta=norm.beta, groups=groups)
    return _normalized(x, window)


def spatial_norm(x: Tensor, norm: SpatialNorm) -> Tensor:
    """x / (k + alpha * sum of x^2 over size x size pixels of the same map)^beta; x: (N, C, H, W).

    Windows are clipped at the border. The paper does not mention this layer; the published numbers
    come from a network that has it after the second response norm (2012 source, "cnorm2").
    """
    window = _Window(size=norm.size, k=norm.k, alpha=norm.alpha, beta=norm.beta, groups=None)
    return _normalized(x, window)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """What is summed, and what the sum does; sizes are odd, so a sum's gradient is a sum."""

    size: int
    k: float
    alpha: float
    beta: float
    groups: int | None  # of maps that a run of maps stays within; None = pixels of one map

    def pieces(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Matching pieces, as (images, C, H, W) or as (pixels, C), that fit the cache."""
        views = [t if self.groups is None else t.permute(0, 2, 3, 1).flatten(0, 2) for t in tensors]
        whole = tensors[0].device.type != "cpu" or torch.compiler.is_compiling()
        numbers = tensors[0].numel() if whole else PIECE * torch.get_num_threads()
        step = max(numbers // max(views[0][0].numel(), 1), 1)
        return zip(*(torch.split(view, step) for view in views), strict=True)

    def band(self, x: Tensor) -> Tensor:
        """(C, C): 1 where two maps are neighbours; a matrix product beats shifted additions."""
        place = torch.arange(x.shape[1], device=x.device)
        group = place // (x.shape[1] // (self.groups or 1))
        near = (place[:, None] - place).abs() <= self.size // 2
        near &= group[:, None] == group
        return near.to(torch.promote_types(x.dtype, torch.float32))

    def sums(self, x: Tensor, band: Tensor) -> Tensor:
        """The sum over each window of x."""
        if self.groups is None:
            return F.avg_pool2d(x, self.size, 1, self.size // 2, divisor_override=1)
        return x @ band

    def divisors(self, x: Tensor, band: Tensor) -> tuple[Tensor, Tensor]:
        """d, and d^-beta."""
        if self.groups is None:
            d = self.sums(x * x, band).mul_(self.alpha).add_(self.k)
        else:
            d = torch.addmm(band.new_tensor([self.k]), x * x, band, alpha=self.alpha)
        if self.beta != 0.75:
            return d, d.pow(-self.beta)
        root = d.rsqrt()  # two square roots cost a third of a power
        return d, root.sqrt().mul_(root)


def _normalized(x: Tensor, window: _Window) -> Tensor:
    result: Tensor = _Normalized.apply(x, window)
    return result


class _Normalized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: _Window) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.window = window
        y, band = torch.empty_like(x), window.band(x)
        with torch.autocast(x.device.type, enabled=False):
            for part, out in window.pieces(x, y):
                exact = _exact(part)
                torch.mul(window.divisors(exact, band)[1], exact, out=out)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """dx = dy d^-beta - 2 alpha beta x * (window sums of dy x d^(-beta-1))."""
        (x,), window = ctx.saved_tensors, ctx.window
        factor = -2 * window.alpha * window.beta
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, band = torch.empty_like(x), window.band(x)
        with torch.autocast(x.device.type, enabled=False):
            for part, slope, out in window.pieces(x, dy, dx):
                exact = _exact(part)
                d, power = window.divisors(exact, band)
                direct = power.mul_(_exact(slope))
                across = window.sums((direct * exact).div_(d), band)
                torch.addcmul(direct, exact, across, value=factor, out=out)
        return dx, None


def _exact(x: Tensor) -> Tensor:
    """At least float32: squares of bfloat16 would lose the small maps."""
    return x if x.dtype == torch.float64 else x.float()
