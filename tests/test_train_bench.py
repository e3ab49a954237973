"""The benchmarks compare like with like and report what they measured."""

from __future__ import annotations

import time

import pytest
import torch

from infra.recipes import load_recipe
from train.bench import Grouped, bench_halves, bench_step, compare
from train.network import DropoutKey, build

CPU = torch.device("cpu")
SMALL = [
    *(f"layers.conv{layer}.kernels=8" for layer in range(1, 6)),
    "layers.fc6.kernels=16",
    "layers.fc7.kernels=16",
]


@pytest.mark.parametrize("name", ["paper", "demo", "photos"])
def test_the_grouped_opponent_is_the_same_network(name: str) -> None:
    recipe = load_recipe(name, SMALL)
    net = build(recipe, 5, (CPU, CPU), seed=1).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3.0)
    images = torch.randn(3, 3, recipe.network.input_px, recipe.network.input_px).double() * 20
    key = DropoutKey(seed=1, step=2, first=3)
    torch.testing.assert_close(Grouped(net)(images, key), net(images, key), rtol=1e-10, atol=0)


def test_ratios_are_ours_over_the_others_and_taken_in_turns() -> None:
    calls: list[str] = []

    def sleeper(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    found = compare(
        {"fast": lambda: sleeper("fast", 0.002), "slow": lambda: sleeper("slow", 0.008)},
        batch=10,
        rounds=4,
        steps=2,
        device=CPU,
    )
    assert calls[2:] == ["fast", "fast", "slow", "slow", "slow", "slow", "fast", "fast"] * 2
    assert found["ratio"]["slow"] > 1.5
    assert found["ratio_low"]["slow"] <= found["ratio"]["slow"] <= found["ratio_high"]["slow"]
    assert found["images_per_s"]["fast"] > found["images_per_s"]["slow"]
    assert found["rounds"] == 4 and found["batch"] == 10


def test_benchmarks_name_their_opponents_and_conditions() -> None:
    recipe = load_recipe("paper", SMALL)
    step = bench_step(recipe, (CPU, CPU), batch=2, rounds=1, steps=1)
    assert set(step["ratio"]) == {"torchvision", "torchvision channels_last"}
    halves = bench_halves(recipe, (CPU, CPU), batch=2, rounds=1, steps=1)
    assert set(halves["ratio"]) == {"grouped"}
    assert halves["device"] == "cpu" and halves["threads"] == torch.get_num_threads()
