"""Random numbers as pure functions of integer keys, the same on every device, rank and worker.

A draw is `mix(key, key, ...)`: SplitMix64's finaliser (Steele, Lea and Flood 2014) folded over the
keys. There is no state to save: augmentation, dropout, order and initial weights name what they
draw for (seed, epoch, sample, purpose) and get the same bits wherever they ask. numpy's unsigned
and torch's signed 64-bit integers give equal bits; both wrap around.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = 0xFFFFFFFFFFFFFFFF

Bits = NDArray[np.uint64]
Keys = int | np.integer | NDArray[np.integer]


def _finish(x: Bits) -> Bits:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def bits(*keys: Keys) -> Bits:
    """64 random bits for each combination of the keys, which broadcast like numpy arrays."""
    state = np.zeros((1,), np.uint64)
    for key in keys:
        word = np.asarray(key).astype(np.int64).astype(np.uint64)
        state = _finish((state ^ word) + np.uint64(GOLDEN))
    return state.reshape(np.broadcast_shapes(*(np.shape(key) for key in keys)))


def uniform(*keys: Keys) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits, one for each combination of the keys."""
    return (bits(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bound: int, *keys: Keys) -> NDArray[np.int64]:
    """Whole numbers in [0, bound), bound at most 2^32 (bias below bound / 2^53)."""
    return (uniform(*keys) * bound).astype(np.int64)


def normal(*keys: Keys) -> NDArray[np.float64]:
    """Standard Gaussian numbers (Box and Muller 1958), one for each combination of the keys."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(*keys, 0)))
    result: NDArray[np.float64] = radius * np.cos(2.0 * math.pi * uniform(*keys, 1))
    return result


def key(*keys: int) -> int:
    """One 64-bit key (signed, as torch holds it) out of several."""
    return _signed(int(bits(*keys)))


def _signed(word: int) -> int:
    word &= WORD
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)  # torch shifts signed integers arithmetically


def tensor_bits(first: int | Tensor, *keys: int | Tensor) -> Tensor:
    """`bits` of torch: int64 tensors with the same bits, on the device of the tensor keys.

    At least one key is an int64 tensor; tensor keys broadcast. Integer keys come first, and are
    folded without touching the device.
    """
    state: int | Tensor = 0
    for item in (first, *keys):
        if isinstance(state, int) and isinstance(item, int):
            state = _signed(int(_finish(np.array([(state ^ item) + GOLDEN & WORD], np.uint64))[0]))
            continue
        x = (state ^ item) + _signed(GOLDEN)
        assert isinstance(x, Tensor)
        x = (x ^ _shift(x, 30)) * _signed(FIRST)
        x = (x ^ _shift(x, 27)) * _signed(SECOND)
        state = x ^ _shift(x, 31)
    assert isinstance(state, Tensor), "a tensor key says how many numbers are wanted"
    return state


def tensor_uniform(*keys: int | Tensor) -> Tensor:
    """`uniform` of torch: float64 in [0, 1)."""
    return _shift(tensor_bits(*keys), 11).to(torch.float64) * 2.0**-53


def tensor_normals(first: int, count: int, *keys: int) -> Tensor:
    """Numbers `first` to `first + count` of the keys' endless Gaussian row, float64, on the CPU.

    A pair of neighbours shares its two uniform numbers (cosine and sine), which halves the time:
    61 million initial weights take seconds.
    """
    pairs = torch.arange(first // 2, (first + count + 1) // 2)
    radius = torch.sqrt(-2.0 * torch.log1p(-tensor_uniform(*keys, 0, pairs)))
    angle = tensor_uniform(*keys, 1, pairs) * (2.0 * math.pi)
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), 1).reshape(-1)
    return both[first % 2 : first % 2 + count]
