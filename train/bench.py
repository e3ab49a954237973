"""How fast a training step is, as ratios measured side by side in one process.

Contenders take turns, a round at a time, and ratios are taken within a round, so that a busy
machine slows all of them alike. torch and torchvision only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models
from torch import Tensor, nn

from infra.recipes import Recipe
from train.network import AlexNet, DropoutKey, build, dropout_mask, network_input
from train.norms import response_norm, spatial_norm
from train.optimizer import Momentum
from train.schedule import rates

CLASSES = 1000
Step = Callable[[], None]
Devices = tuple[torch.device, torch.device]


def bench_step(
    recipe: Recipe, devices: Devices, *, batch: int = 128, rounds: int = 5, steps: int = 3
) -> dict[str, Any]:
    """Training steps of the recipe's network against torchvision's AlexNet.

    torchvision's has neither response norms nor halves; it is measured as it comes (planar images)
    and with `channels_last` images, with `torch.optim.SGD`. Returns the fields of `compare`.
    """
    px = recipe.network.input_px
    images, labels = _data(batch, px, devices[0])
    contenders = {"septet": _own_step(recipe, devices, images, labels)}
    for name, layout in (
        ("torchvision", torch.contiguous_format),
        ("torchvision channels_last", torch.channels_last),
    ):
        model = torchvision.models.alexnet(num_classes=CLASSES).to(devices[0])
        model, shown = model.to(memory_format=layout), images.contiguous(memory_format=layout)
        contenders[name] = _plain_step(model, shown, labels, recipe)
    return compare(contenders, batch=batch, rounds=rounds, steps=steps, device=devices[0])


def bench_halves(
    recipe: Recipe, devices: Devices, *, batch: int = 128, rounds: int = 5, steps: int = 3
) -> dict[str, Any]:
    """Forward and backward of the two halves against the same weights as one grouped network.

    Both have the same norms and the same dropout masks. Returns the fields of `compare`.
    """
    images, labels = _data(batch, recipe.network.input_px, devices[0])
    net = build(recipe, CLASSES, devices, seed=0)
    grouped = Grouped(net).to(devices[0])
    contenders = {
        name: _gradient_step(model, images, labels)
        for name, model in (("septet", net), ("grouped", grouped))
    }
    return compare(contenders, batch=batch, rounds=rounds, steps=steps, device=devices[0])


def compare(
    contenders: Mapping[str, Step], *, batch: int, rounds: int, steps: int, device: torch.device
) -> dict[str, Any]:
    """Times `rounds` rounds of `steps` steps of each contender, in turns; the first one is ours.

    Returns images_per_s {name: median over rounds}; ratio {other: median over rounds of ours over
    it}, ratio_low and ratio_high (the extremes); and the conditions: batch, rounds, steps, threads,
    device, torch.
    """
    for step in contenders.values():
        step()  # allocations and choices of algorithm are not timed
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(contenders)[:: 1 if turn % 2 == 0 else -1]
        for name in order:
            times[name].append(_seconds(contenders[name], steps, device))
    ours, *others = contenders
    ratios = {
        other: [b / a for a, b in zip(times[ours], times[other], strict=True)] for other in others
    }
    images = batch * steps
    return {
        "images_per_s": {name: images / statistics.median(t) for name, t in times.items()},
        "ratio": {other: statistics.median(r) for other, r in ratios.items()},
        "ratio_low": {other: min(r) for other, r in ratios.items()},
        "ratio_high": {other: max(r) for other, r in ratios.items()},
        "batch": batch,
        "rounds": rounds,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "torch": torch.__version__,
    }


def _seconds(step: Step, steps: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _data(batch: int, px: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((batch, 3, px, px), generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    return images.to(device), labels.to(device)


def _own_step(recipe: Recipe, devices: Devices, images: Tensor, labels: Tensor) -> Step:
    net = build(recipe, CLASSES, devices, seed=0)
    optimizer, learning = Momentum(net, recipe), rates(recipe, 0, [])
    gradient = _gradient_step(net, images, labels)

    def step() -> None:
        gradient()
        optimizer.step(learning)

    return step


def _gradient_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    def step() -> None:
        model.zero_grad()
        key = DropoutKey(seed=0, step=0, first=0)
        torch.autograd.backward(F.cross_entropy(model(images, key), labels))

    return step


def _plain_step(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Step:
    model.train()
    own = recipe.optimizer
    sgd = torch.optim.SGD(model.parameters(), own.lr, own.momentum, weight_decay=own.weight_decay)
    low = recipe.compute.dtype == "bfloat16"

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        sgd.step()

    return step


class Grouped(nn.Module):
    """A network's copy as one grouped network on one device: what its halves are measured by."""

    def __init__(self, net: AlexNet) -> None:
        super().__init__()
        self.recipe, self.rows = net.recipe, net.rows
        self.weights = nn.ParameterDict(
            {
                name.replace(".", "_"): torch.cat([s.detach().to(shares[0].device) for s in shares])
                for name, shares in net.parts().items()
            }
        )

    def forward(self, images: Tensor, drop: DropoutKey) -> Tensor:
        """Logits (N, classes) of a training pass, from images (N, 3, px, px)."""
        low = self.recipe.compute.dtype == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            x = network_input(images, self.recipe.network)
            for row in self.rows:
                weight, bias = (self.weights[f"{row.name}_{part}"] for part in ("weight", "bias"))
                if row.layer.kind == "fc":
                    x = F.linear(x.flatten(1), weight, bias)
                else:
                    groups = x.shape[1] // row.reads
                    layer = row.layer
                    x = F.conv2d(x, weight, bias, layer.stride, layer.pad, groups=groups)
                for step in row.layer.after:
                    x = self._after(step, x, row.name, drop)
        return x.float() if low else x

    def _after(self, step: str, x: Tensor, name: str, drop: DropoutKey) -> Tensor:
        network = self.recipe.network
        if step == "relu":
            return F.relu(x, inplace=True)
        if step == "tanh":
            return torch.tanh(x)
        if step == "norm":
            groups = network.halves if self.recipe.norm.within == "half" else 1
            return response_norm(x, self.recipe.norm, groups)
        if step == "spatial_norm":
            return spatial_norm(x, self.recipe.spatial_norm)
        if step == "pool":
            return F.max_pool2d(x, network.pool_size, network.pool_stride)
        keep = 1.0 - network.dropout
        level = keep if network.dropout_scales == "train" else 1.0
        return x * (dropout_mask(drop, name, keep, 0, x) / level)
