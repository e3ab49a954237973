"""Recipes that build another network, each against plain PyTorch or numpy written for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infra.recipes import Recipe, load_recipe
from train.network import AlexNet, DropoutKey, build, dropout_mask
from train.schedule import rates

CPU = torch.device("cpu")
CLASSES = 5
WIDTHS = {"conv1": 12, "conv2": 16, "conv3": 12, "conv4": 12, "conv5": 8, "fc6": 24, "fc7": 20}
KEY = DropoutKey(seed=1, step=7, first=64)


def narrow(name: str) -> Recipe:
    return load_recipe(name, [f"layers.{layer}.kernels={w}" for layer, w in WIDTHS.items()])


def network(recipe: Recipe) -> tuple[AlexNet, dict[str, Tensor]]:
    """The network in float64 with larger weights, and the same weights in canonical layout."""
    net = build(recipe, CLASSES, (CPU, CPU), seed=1).double()
    with torch.no_grad():
        for name, shares in net.parts().items():
            for share in shares:
                share.mul_(0.04 / recipe.layers[name.split(".")[0]].std)
    return net, {name: torch.cat(shares).detach() for name, shares in net.parts().items()}


def photographs(px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((3, 3, px, px), generator=generator, dtype=torch.float64) * 60


def halves_norm(x: Tensor, alpha: float, k: float) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([F.local_response_norm(t, 5, alpha, 0.75, k) for t in (a, b)], 1)


def mask(x: Tensor, name: str) -> Tensor:
    return dropout_mask(KEY, name, 0.5, 0, x)  # proved apart: test_train_halves


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() / expected.abs().max() < 1e-10


@pytest.mark.parametrize("training", [False, True])
def test_source2012(training: bool) -> None:
    net, w = network(narrow("source2012"))
    images = photographs(224)
    x = F.conv2d(F.pad(images, (0, 3, 0, 3)), w["conv1.weight"], w["conv1.bias"], 4)
    x = F.relu(F.max_pool2d(halves_norm(x, 1e-4, 2.0), 3, 2))
    x = F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], 1, 2, groups=2))
    x = halves_norm(x, 1e-4, 2.0)
    x = x / (1 + 1e-3 / 25 * F.avg_pool2d(x**2, 5, 1, 2) * 25) ** 0.75
    x = F.max_pool2d(x, 3, 2)
    x = F.relu(F.conv2d(x, w["conv3.weight"], w["conv3.bias"], 1, 1))
    x = F.relu(F.conv2d(x, w["conv4.weight"], w["conv4.bias"], 1, 1, groups=2))
    x = F.conv2d(x, w["conv5.weight"], w["conv5.bias"], 1, 1, groups=2)
    x = F.relu(F.max_pool2d(x, 3, 2)).flatten(1)
    for name in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
        x = x * (mask(x, name) if training else 0.5)
    assert_close(
        net(images, KEY if training else None), F.linear(x, w["fc8.weight"], w["fc8.bias"])
    )


@pytest.mark.parametrize("training", [False, True])
def test_caffe(training: bool) -> None:
    net, w = network(narrow("caffe"))
    images = photographs(227)
    x = F.relu(F.conv2d(images, w["conv1.weight"], w["conv1.bias"], 4))
    x = F.max_pool2d(F.local_response_norm(x, 5, 1e-4, 0.75, 1.0), 3, 2)
    x = F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], 1, 2, groups=2))
    x = F.max_pool2d(F.local_response_norm(x, 5, 1e-4, 0.75, 1.0), 3, 2)
    x = F.relu(F.conv2d(x, w["conv3.weight"], w["conv3.bias"], 1, 1))
    x = F.relu(F.conv2d(x, w["conv4.weight"], w["conv4.bias"], 1, 1, groups=2))
    x = F.relu(F.conv2d(x, w["conv5.weight"], w["conv5.bias"], 1, 1, groups=2))
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]))
        x = x * mask(x, name) * 2 if training else x
    assert_close(
        net(images, KEY if training else None), F.linear(x, w["fc8.weight"], w["fc8.bias"])
    )


@pytest.mark.parametrize(("name", "px"), [("blog", 227), ("half", 224)])
def test_one_column(name: str, px: int) -> None:
    net, w = network(narrow(name))
    assert len(net.halves) == 1
    images = photographs(px)
    x = F.pad(images, (0, 3, 0, 3)) if px == 224 else images
    x = F.relu(F.conv2d(x, w["conv1.weight"], w["conv1.bias"], 4))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    x = F.relu(F.conv2d(x, w["conv2.weight"], w["conv2.bias"], 1, 2))
    x = F.max_pool2d(F.local_response_norm(x, 5, 5e-4, 0.75, 2.0), 3, 2)
    for layer in ("conv3", "conv4", "conv5"):
        x = F.relu(F.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], 1, 1))
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for layer in ("fc6", "fc7"):
        x = F.relu(F.linear(x, w[f"{layer}.weight"], w[f"{layer}.bias"])) * 0.5
    assert_close(net(images), F.linear(x, w["fc8.weight"], w["fc8.bias"]))


def test_the_sixth_convolution_reads_both_halves_of_the_last_pool() -> None:
    net, w = network(narrow("conv6"))
    seen: dict[str, Tensor] = {}
    for half in (0, 1):
        net.halves[half]["conv6"].register_forward_hook(
            lambda _m, inputs, output, half=half: seen.update(
                {f"in{half}": inputs[0], f"out{half}": output}
            )
        )
    net(photographs(224))
    assert seen["in0"].shape == (3, 8, 6, 6)
    assert torch.equal(seen["in0"], seen["in1"])
    whole = F.conv2d(seen["in0"], w["conv6.weight"], w["conv6.bias"], 1, 1)
    assert_close(F.relu(torch.cat((seen["out0"], seen["out1"]), 1)), F.relu(whole))


def test_the_ceil_rule_lets_the_last_windows_hang_over_and_read_zeros() -> None:
    net, w = network(narrow("source2012"))
    seen: list[Tensor] = []
    for half in (0, 1):
        net.halves[half]["conv1"].register_forward_hook(lambda _m, _i, o: seen.append(o.detach()))
    images = photographs(224)
    net(images)
    outputs = 1 + math.ceil((224 - 11) / 4)
    assert outputs == 55
    found, kernels = torch.cat(seen, 1).numpy(), w["conv1.weight"].numpy()
    for row, column in [(0, 0), (54, 54), (54, 20), (7, 54)]:
        total = np.tile(w["conv1.bias"].numpy(), (3, 1))
        for y in range(4 * row, min(4 * row + 11, 224)):  # taps outside the image add nothing
            for x in range(4 * column, min(4 * column + 11, 224)):
                pixel = images.numpy()[:, :, y, x]
                total += pixel @ kernels[:, :, y - 4 * row, x - 4 * column].T
        np.testing.assert_allclose(found[:, :, row, column], total, rtol=1e-10, atol=1e-10)


def test_source2012_rates_are_those_of_its_log() -> None:
    recipe = load_recipe("source2012")
    assert recipe.schedule.epochs == 91
    found = {epoch: rates(recipe, epoch, []) for epoch in (0, 24, 25, 51, 66, 67, 71, 72, 79, 90)}
    conv1 = [found[e].weights["conv1"] for e in (0, 24, 25, 51, 66, 67, 71, 72, 79)]
    others = [found[e].weights["fc8"] for e in (0, 24, 25, 51, 66, 67, 72, 79, 90)]
    assert conv1 == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 0, 0])
    assert others == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5])
    assert all(r.biases["fc8"] == 0.02 for r in found.values())
    assert [found[e].biases["conv1"] for e in (71, 72)] == [0.02, 0.0]


def test_caffe_falls_every_twenty_epochs_with_biases_at_twice_the_rate() -> None:
    recipe = load_recipe("caffe")
    found = [rates(recipe, epoch, []) for epoch in (0, 19, 20, 40, 60, 80, 89)]
    expected = pytest.approx([1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-6])
    assert [r.lr for r in found] == expected
    assert [r.biases["conv2"] / 2 for r in found] == expected
