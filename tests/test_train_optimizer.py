"""The update rule against numpy across drops of the rate, and apart from torch.optim.SGD's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from infra.errors import DataError
from infra.recipes import Recipe, load_recipe
from train.network import AlexNet, build, canonical_state
from train.optimizer import Momentum
from train.schedule import Rates

CPU = torch.device("cpu")
WIDTHS = {"conv1": 4, "conv2": 4, "conv3": 4, "conv4": 4, "conv5": 4, "fc6": 6, "fc7": 6}


def small(*changes: str) -> Recipe:
    """The paper's recipe with few kernels."""
    return load_recipe("paper", [*(f"layers.{k}.kernels={v}" for k, v in WIDTHS.items()), *changes])


def at(recipe: Recipe, lr: float, bias_lr: float, **own: float) -> Rates:
    """Rates equal for all layers but the named ones."""
    return Rates(
        lr=lr,
        weights=dict.fromkeys(recipe.layers, lr) | own,
        biases=dict.fromkeys(recipe.layers, bias_lr) | own,
    )


def give_gradients(net: AlexNet, seed: int) -> dict[str, Tensor]:
    """Random gradients, in the halves and (returned) in the canonical layout."""
    generator, given = torch.Generator().manual_seed(seed), {}
    for name, shares in net.parts().items():
        for share in shares:
            share.grad = torch.randn(share.shape, generator=generator, dtype=share.dtype)
        given[name] = torch.cat([share.grad for share in shares if share.grad is not None])
    return given


def whole(net: AlexNet) -> dict[str, np.ndarray]:
    return {name: torch.cat(shares).detach().numpy() for name, shares in net.parts().items()}


def test_the_rule_of_section_5_across_drops_of_the_rate() -> None:
    recipe = small("optimizer.bias_decay=1e-3")
    net = build(recipe, 3, (CPU, CPU), seed=1).to(torch.float64)
    optimizer, w = Momentum(net, recipe), {n: t.copy() for n, t in whole(net).items()}
    v = {name: np.zeros_like(t) for name, t in w.items()}
    for step in range(9):
        lr, bias_lr = (0.01, 0.02) if step < 3 else (0.001, 0.002) if step < 6 else (1e-4, 0.002)
        g = give_gradients(net, step)
        optimizer.step(at(recipe, lr, bias_lr))
        for name in w:
            rate, decay = (lr, 5e-4) if name.endswith("weight") else (bias_lr, 1e-3)
            v[name] = 0.9 * v[name] - decay * rate * w[name] - rate * g[name].numpy()
            w[name] = w[name] + v[name]
    for name, found in whole(net).items():
        np.testing.assert_allclose(found, w[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_torch_sgd_agrees_until_the_rate_drops_and_then_does_not() -> None:
    recipe = small("optimizer.bias_decay=5e-4")
    ours, theirs = (build(recipe, 3, (CPU, CPU), seed=1).to(torch.float64) for _ in range(2))
    mine = Momentum(ours, recipe)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for step in range(6):
        lr = 0.01 if step < 4 else 0.001
        sgd.param_groups[0]["lr"] = lr
        for net in (ours, theirs):
            give_gradients(net, step)
        mine.step(at(recipe, lr, lr))
        sgd.step()
        apart = max(np.abs(a - whole(theirs)[n]).max() for n, a in whole(ours).items())
        assert apart < 1e-12 if step < 4 else apart > 1e-3, step


def test_a_rate_of_zero_freezes_weights_and_velocity() -> None:
    recipe = small()
    net = build(recipe, 3, (CPU, CPU), seed=1)
    optimizer = Momentum(net, recipe)
    give_gradients(net, 0)
    optimizer.step(at(recipe, 0.01, 0.01))
    before, velocity = canonical_state(net), optimizer.state()
    give_gradients(net, 1)
    optimizer.step(at(recipe, 0.01, 0.01, conv1=0.0))
    for name, tensor in canonical_state(net).items():
        frozen = name.startswith("conv1.")
        assert torch.equal(tensor, before[name]) == frozen, name
        assert torch.equal(optimizer.state()[name], velocity[name]) == frozen, name


def test_biases_do_not_decay_by_default() -> None:
    recipe = small()
    net = build(recipe, 3, (CPU, CPU), seed=1)
    give_gradients(net, 0)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = canonical_state(net)
    Momentum(net, recipe).step(at(recipe, 0.01, 0.01))
    assert torch.equal(canonical_state(net)["fc7.bias"], before["fc7.bias"])
    expected = before["fc7.weight"] * (1 - 0.01 * 5e-4)
    torch.testing.assert_close(canonical_state(net)["fc7.weight"], expected)


def test_saved_velocities_go_on_as_if_never_saved() -> None:
    recipe = small()
    nets = [build(recipe, 3, (CPU, CPU), seed=1) for _ in range(2)]
    optimizers = [Momentum(net, recipe) for net in nets]
    for step in range(4):
        if step == 2:
            state = optimizers[1].state()
            assert state["conv2.weight"].shape == (4, 2, 5, 5)
            optimizers[1] = Momentum(nets[1], recipe)
            optimizers[1].load_state(state)
        for net, optimizer in zip(nets, optimizers, strict=True):
            give_gradients(net, step)
            optimizer.step(at(recipe, 0.01, 0.02))
    one, two = map(canonical_state, nets)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_velocities_that_do_not_fit_are_named() -> None:
    optimizer = Momentum(build(small(), 3, (CPU, CPU), seed=1), small())
    state = optimizer.state()
    state["conv4.bias"] = torch.zeros(5)
    with pytest.raises(DataError, match=r"conv4\.bias"):
        optimizer.load_state(state)


def test_zero_grad_forgets() -> None:
    net = build(small(), 3, (CPU, CPU), seed=1)
    give_gradients(net, 0)
    Momentum(net, small()).zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
