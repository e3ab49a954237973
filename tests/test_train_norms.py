"""Normalisations against a few lines of numpy and against PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infra.recipes import ResponseNorm, SpatialNorm
from train.norms import response_norm, spatial_norm


def sample(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator, dtype=torch.float64).mul(40).to(dtype)


def numpy_response(x: np.ndarray, norm: ResponseNorm) -> np.ndarray:
    y, maps = np.empty_like(x), x.shape[1]
    for i in range(maps):  # the formula of section 3.3
        low, high = max(0, i - norm.size // 2), min(maps - 1, i + norm.size // 2)
        total = (x[:, low : high + 1] ** 2).sum(1)
        y[:, i] = x[:, i] / (norm.k + norm.alpha * total) ** norm.beta
    return y


def numpy_spatial(x: np.ndarray, norm: SpatialNorm) -> np.ndarray:
    y, reach = np.empty_like(x), norm.size // 2
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = x[:, :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
            total = (window**2).sum((2, 3))
            y[:, :, i, j] = x[:, :, i, j] / (norm.k + norm.alpha * total) ** norm.beta
    return y


@pytest.mark.parametrize("maps", [1, 2, 3, 5, 48])
@pytest.mark.parametrize(
    "norm", [ResponseNorm(), ResponseNorm(size=9, k=1.0, alpha=2e-5), ResponseNorm(beta=0.6)]
)
def test_response_norm_is_the_papers_formula(maps: int, norm: ResponseNorm) -> None:
    x = sample(3, maps, 6, 5)
    np.testing.assert_allclose(
        response_norm(x, norm).numpy(), numpy_response(x.numpy(), norm), rtol=1e-12
    )


def test_alpha_multiplies_the_plain_sum_where_pytorch_divides_by_the_size() -> None:
    x = sample(2, 48, 5, 5)
    literal = F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
    source = F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=2.0)
    torch.testing.assert_close(response_norm(x, ResponseNorm()), literal, rtol=1e-13, atol=0)
    as_2012 = response_norm(x, ResponseNorm(alpha=2e-5))
    torch.testing.assert_close(as_2012, source, rtol=1e-13, atol=0)


@pytest.mark.parametrize("norm", [SpatialNorm(), SpatialNorm(size=3, k=2.0, beta=0.5)])
def test_spatial_norm_sums_over_pixels_of_one_map(norm: SpatialNorm) -> None:
    x = sample(2, 7, 6, 9)
    np.testing.assert_allclose(
        spatial_norm(x, norm).numpy(), numpy_spatial(x.numpy(), norm), rtol=1e-12
    )


@pytest.mark.parametrize("dense", [True, False])
def test_gradients_are_those_of_finite_differences(dense: bool) -> None:
    x = sample(2, 6, 4, 3)
    x = (x if dense else x.contiguous(memory_format=torch.channels_last)).requires_grad_()
    strong = ResponseNorm(alpha=1e-2)
    assert torch.autograd.gradcheck(lambda t: response_norm(t, strong), x)
    assert torch.autograd.gradcheck(lambda t: spatial_norm(t, SpatialNorm(alpha=1e-2)), x)


def test_many_pieces_are_as_one() -> None:
    x = sample(9, 48, 31, 29, dtype=torch.float32).requires_grad_()  # several pieces, one ragged
    slope = sample(9, 48, 31, 29, dtype=torch.float32).flip(0)
    response_norm(x, ResponseNorm()).backward(slope)
    y = x.detach().double().requires_grad_()
    F.local_response_norm(y, 5, alpha=5e-4, beta=0.75, k=2.0).backward(slope.double())
    assert x.grad is not None and y.grad is not None
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=2e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32() -> None:
    x = sample(2, 16, 5, 5, dtype=torch.bfloat16)
    y = response_norm(x, ResponseNorm())
    assert y.dtype == torch.bfloat16
    exact = response_norm(x.double(), ResponseNorm())
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=0)
