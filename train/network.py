"""AlexNet in two halves: the recipe's table of layers, placed on two devices (section 3.5).

Each half holds its kernels on its own device and exchanges activations only at the input of layers
that see both halves (the paper's conv3, fc6, fc7, fc8). The parameters have one canonical layout,
that of a grouped network on one device; files hold only that, so placement never shows in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.recipes import Network, Recipe
from train import draws
from train.layout import join, spread
from train.norms import response_norm, spatial_norm
from train.table import Row, layer_table

WEIGHTS, DROPOUT = 1, 2  # what a draw is for: the first key of every draw of this module


@dataclass(frozen=True, kw_only=True, slots=True)
class DropoutKey:
    """Which masks a training step uses: the same for any number of replicas and any placement."""

    seed: int
    step: int  # updates done so far in the run
    first: int  # position in the global batch of this tensor's first sample


class Learned(nn.Module):
    """The kernels of one layer that live in one half: weights and biases."""

    def __init__(self, row: Row, device: torch.device) -> None:
        super().__init__()
        kernels = row.kernels // row.halves
        self.weight = nn.Parameter(torch.empty((kernels, *row.weight_shape[1:]), device=device))
        self.bias = nn.Parameter(torch.empty(kernels, device=device))
        self.row = row

    def forward(self, x: Tensor) -> Tensor:
        """The layer's linear part: (N, C, H, W) or (N, units) to the same with its kernels."""
        layer = self.row.layer
        if layer.kind == "fc":
            return F.linear(x.flatten(1), self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, layer.stride, layer.pad)


class AlexNet(nn.Module):
    """The network of a recipe; parameters are uninitialised: use `build`."""

    def __init__(
        self, recipe: Recipe, num_classes: int, devices: tuple[torch.device, torch.device]
    ) -> None:
        super().__init__()
        self.recipe, self.rows = recipe, layer_table(recipe, num_classes)
        self.devices = devices[: recipe.network.halves]
        self.halves = nn.ModuleList(
            nn.ModuleDict({r.name: Learned(r, device) for r in self.rows if half < r.halves})
            for half, device in enumerate(self.devices)
        )

    def forward(self, images: Tensor, drop: DropoutKey | None = None) -> Tensor:
        """Logits (N, classes) on the first device, from images (N, 3, px, px) on the first device.

        With `drop`, the pass of a training step; without, the pass of a test (section 4.2).
        """
        kind, half = self.devices[0].type, self.recipe.compute.dtype == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            x = network_input(images, self.recipe.network)
            maps = [x.to(device, non_blocking=True) for device in self.devices]
            for row in self.rows:
                maps = self._layer(row, maps, drop)
        (logits,) = maps
        return logits.float() if half else logits

    def _layer(self, row: Row, maps: list[Tensor], drop: DropoutKey | None) -> list[Tensor]:
        if row is not self.rows[0] and (row.layer.sees == "both" or row.halves < len(maps)):
            maps = self._exchange(maps)
        learned = [half[row.name] for half in self._columns()[: row.halves]]
        out = [layer(m) for layer, m in zip(learned, maps, strict=False)]
        for step in row.layer.after:
            out = self._after(step, row, out, drop)
        return out

    def _columns(self) -> list[nn.ModuleDict]:
        return [half for half in self.halves if isinstance(half, nn.ModuleDict)]

    def _exchange(self, maps: list[Tensor]) -> list[Tensor]:
        """What each half reads where it sees both: all maps, half a's first, on its device."""
        if len(set(self.devices)) == 1:
            return [torch.cat(maps, 1)] * len(maps)
        return [torch.cat([m.to(device) for m in maps], 1) for device in self.devices]

    def _after(
        self, step: str, row: Row, maps: list[Tensor], drop: DropoutKey | None
    ) -> list[Tensor]:
        network = self.recipe.network
        if step == "relu":
            return [F.relu(m, inplace=True) for m in maps]
        if step == "tanh":
            return [torch.tanh(m) for m in maps]
        if step == "norm":
            return self._response_norm(maps)
        if step == "spatial_norm":
            return [spatial_norm(m, self.recipe.spatial_norm) for m in maps]
        if step == "pool":
            return [F.max_pool2d(m, network.pool_size, network.pool_stride) for m in maps]
        keep = 1.0 - network.dropout
        if drop is None:
            return maps if network.dropout_scales == "train" else [m * keep for m in maps]
        level = keep if network.dropout_scales == "train" else 1.0
        return [
            m * (dropout_mask(drop, row.name, keep, half, m) / level) for half, m in enumerate(maps)
        ]

    def _response_norm(self, maps: list[Tensor]) -> list[Tensor]:
        norm = self.recipe.norm
        if norm.within == "half" or len(maps) == 1:
            return [response_norm(m, norm) for m in maps]
        a, b = maps  # neighbours across the halves: only the maps at the seam travel
        edge = norm.size // 2
        a_more = torch.cat((a, b[:, :edge].to(a.device)), 1)
        b_more = torch.cat((a[:, -edge:].to(b.device), b), 1)
        return [
            response_norm(a_more, norm)[:, : a.shape[1]],
            response_norm(b_more, norm)[:, edge:],
        ]

    def shares(self, name: str) -> list[nn.Parameter]:
        """The parts of a canonical parameter, half a's first; they join along dimension 0."""
        layer, part = name.rsplit(".", 1)
        holders = (half[layer] for half in self._columns() if layer in half)
        return [getattr(holder, part) for holder in holders]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """`shares` of all parameters, in canonical order: conv1.weight, conv1.bias, ..."""
        names = [f"{row.name}.{part}" for row in self.rows for part in ("weight", "bias")]
        return {name: self.shares(name) for name in names}


def network_input(images: Tensor, network: Network) -> Tensor:
    """Images scaled and padded with zeros (the mean), in the layout that convolutions like best."""
    if network.input_scale != 1.0:
        images = images * network.input_scale
    padded = F.pad(images, network.input_pad)
    return padded.contiguous(memory_format=torch.channels_last)


def dropout_mask(drop: DropoutKey, layer: str, keep: float, half: int, maps: Tensor) -> Tensor:
    """1 where a unit is kept, else 0, like `maps`: (N, units) of that half of the layer.

    Unit numbers are the canonical ones, so halves draw apart and placement does not matter.
    """
    count, units = maps.shape[0], maps[0].numel()
    samples = torch.arange(drop.first, drop.first + count, device=maps.device)
    unit = torch.arange(half * units, (half + 1) * units, device=maps.device)
    name = draws.key(DROPOUT, drop.seed, drop.step, *layer.encode())
    kept = draws.tensor_uniform(name, samples[:, None], unit[None]) < keep
    return kept.to(maps.dtype).view_as(maps)


def build(
    recipe: Recipe, num_classes: int, devices: tuple[torch.device, torch.device], seed: int
) -> AlexNet:
    """The recipe's network with its initial weights (section 5): N(0, std), constant biases.

    The weights depend on the seed, the layer and their place in the canonical layout alone.
    """
    net = AlexNet(recipe, num_classes, devices)
    with torch.no_grad():
        for row in net.rows:
            first = 0
            for weight in net.shares(f"{row.name}.weight"):
                _fill(weight, first, row, seed)
                first += weight.numel()
            for bias in net.shares(f"{row.name}.bias"):
                bias.fill_(row.layer.bias)
    return net


def _fill(weight: Tensor, first: int, row: Row, seed: int) -> None:
    chunk = 1 << 20  # numbers at a time: 8 MiB of float64 a temporary
    layer, flat = draws.key(WEIGHTS, seed, *row.name.encode()), torch.empty(weight.numel())
    for start in range(0, flat.numel(), chunk):
        count = min(chunk, flat.numel() - start)
        flat[start : start + count] = draws.tensor_normals(first + start, count, layer)
    weight.copy_((flat * row.layer.std).view(weight.shape))


def canonical_state(net: AlexNet) -> dict[str, Tensor]:
    """All parameters in the canonical (grouped, single-device) layout: new float32 CPU tensors.

    conv1.weight (96, 3, 11, 11), conv2.weight (256, 48, 5, 5), ... fc8.bias (classes,).
    """
    return join(net.parts())


def load_canonical(net: AlexNet, state: Mapping[str, Tensor]) -> None:
    """Copies canonical parameters into the halves; raises `DataError` naming what does not fit."""
    spread(state, net.parts())
