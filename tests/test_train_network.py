"""The built network: the table's sizes in real tensors, its initial weights, its one layout."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from infra.errors import DataError
from infra.recipes import Recipe, load_recipe
from train.network import AlexNet, DropoutKey, build, canonical_state, load_canonical
from train.table import layer_table

CPU = torch.device("cpu")
PAIR = (CPU, CPU)


def small(*changes: str) -> Recipe:
    """The paper's recipe with few kernels."""
    widths = {"conv1": 8, "conv2": 8, "conv3": 8, "conv4": 8, "conv5": 8, "fc6": 16, "fc7": 16}
    return load_recipe("paper", [*(f"layers.{k}.kernels={v}" for k, v in widths.items()), *changes])


@pytest.mark.parametrize("name", ["paper", "demo", "photos"])
def test_activations_and_parameters_are_the_tables(name: str) -> None:
    recipe, classes = load_recipe(name), 1000
    net, seen = AlexNet(recipe, classes, PAIR), dict[str, list[tuple[int, ...]]]()
    for row in net.rows:
        for half in range(row.halves):
            net.halves[half][row.name].register_forward_hook(
                lambda _m, _i, output, name=row.name: seen.setdefault(name, []).append(
                    tuple(output.shape)
                )
            )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        px = recipe.network.input_px
        assert net(torch.zeros(1, 3, px, px)).shape == (1, classes)
    for row in layer_table(recipe, classes):
        window = (row.output_px,) * 2 if row.layer.kind == "conv" else ()
        assert seen[row.name] == [(1, row.kernels // row.halves, *window)] * row.halves
        weights, biases = net.shares(f"{row.name}.weight"), net.shares(f"{row.name}.bias")
        assert sum(w.numel() for w in weights) + sum(b.numel() for b in biases) == row.parameters
        assert (sum(len(w) for w in weights), *weights[0].shape[1:]) == row.weight_shape
    assert sum(p.numel() for p in net.parameters()) == sum(row.parameters for row in net.rows)


def test_the_paper_net_holds_60_965_224_parameters_half_of_them_in_each_half() -> None:
    meta = torch.device("meta")
    net = AlexNet(load_recipe("paper"), 1000, (meta, meta))
    one, two = (sum(p.numel() for p in half.parameters()) for half in net.halves)
    assert one + two == 60_965_224
    assert one - two == 4_097_000  # fc8


def test_initial_weights_are_gaussian_with_the_recipes_deviations() -> None:
    state = canonical_state(build(load_recipe("photos"), 20, PAIR, seed=3))
    for name, layer in load_recipe("photos").layers.items():
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        error = 5 / weight.numel() ** 0.5
        assert abs(float(weight.mean())) < error * layer.std, name
        assert abs(float(weight.std()) / layer.std - 1) < error, name
        assert torch.equal(bias, torch.full_like(bias, layer.bias)), name


def test_initial_weights_are_the_same_for_good() -> None:
    state = canonical_state(build(small(), 5, PAIR, seed=3))
    rounded = [(t * 1e4).round().to(torch.int32).numpy().tobytes() for t in state.values()]
    digest = hashlib.sha256(b"".join(rounded)).hexdigest()
    assert digest == "ba2dac824b63cc706fa9782fefd0606897c10bd62d57fa306c4432241263d718"
    other = canonical_state(build(small(), 5, PAIR, seed=4))
    assert not torch.equal(state["conv1.weight"], other["conv1.weight"])


def test_initial_weights_do_not_depend_on_the_halves() -> None:
    two = canonical_state(build(small(), 5, PAIR, seed=3))
    one = canonical_state(build(small("network.halves=1"), 5, PAIR, seed=3))
    for name in ("conv1.weight", "conv3.weight", "fc6.weight", "fc7.weight", "fc8.weight"):
        assert torch.equal(two[name], one[name]), name  # where the shapes agree
    assert not torch.equal(two["fc6.weight"][:8], two["fc6.weight"][8:])


def test_canonical_state_goes_round() -> None:
    first, second = (build(small(), 5, PAIR, seed=seed) for seed in (1, 2))
    state = canonical_state(first)
    assert list(state)[:3] == ["conv1.weight", "conv1.bias", "conv2.weight"]
    assert state["conv2.weight"].shape == (8, 4, 5, 5)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in state.values())
    load_canonical(second, state)
    images = torch.randn(2, 3, 224, 224) * 50
    assert torch.equal(first(images), second(images))
    state["fc8.bias"] += 1.0  # a copy, not a view
    assert torch.equal(first(images), second(images))


@pytest.mark.parametrize("harm", ["missing", "surplus", "shape"])
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(harm: str) -> None:
    net = build(small(), 5, PAIR, seed=1)
    state = canonical_state(build(small(), 5, PAIR, seed=2))
    if harm == "missing":
        del state["fc7.bias"]
    elif harm == "surplus":
        state["fc9.bias"] = torch.zeros(1)
    else:
        state["fc7.bias"] = torch.zeros(3)
    before = canonical_state(net)
    with pytest.raises(DataError, match="fc9.bias" if harm == "surplus" else "fc7.bias"):
        load_canonical(net, state)
    assert all(torch.equal(t, before[name]) for name, t in canonical_state(net).items())


def run(recipe: Recipe, images: Tensor, drop: DropoutKey | None) -> Tensor:
    """Logits of the recipe's network with larger initial weights, so that signals get through."""
    net = build(recipe, 5, PAIR, seed=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(6.0)
        return net(images, drop)


@pytest.mark.parametrize(
    "change",
    [
        'layers.conv1.after=["norm","pool","relu"]',
        'layers.conv2.after=["relu","norm","spatial_norm","pool"]',
        'layers.conv1.after=["tanh","norm","pool"]',
        "norm.k=1.0",
        "norm.alpha=2e-5",
        "norm.size=3",
        "norm.within=layer",
        "network.input_pad=[2,1,2,1]",
        "network.input_scale=0.5",
        "network.dropout=0.3",
        "network.dropout_scales=train",
        "layers.conv3.sees=own",
        "network.halves=1",
    ],
)
def test_every_choice_of_the_recipe_reaches_the_network(change: str) -> None:
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 50
    assert not torch.allclose(run(small(), images, None), run(small(change), images, None))


def test_inverted_dropout_changes_training_and_leaves_the_test_alone() -> None:
    key, images = DropoutKey(seed=1, step=2, first=0), torch.randn(2, 3, 224, 224) * 50
    bare, inverted = small("network.dropout=0.0"), small("network.dropout_scales=train")
    assert torch.equal(run(bare, images, None), run(inverted, images, None))
    assert torch.equal(run(bare, images, key), run(bare, images, None))
    assert not torch.allclose(run(inverted, images, key), run(inverted, images, None))


def test_bfloat16_is_close_and_weights_stay_float32() -> None:
    images = torch.randn(2, 3, 224, 224) * 50
    exact = run(small(), images, None)
    rough = run(small("compute.dtype=bfloat16"), images, None)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1 * float(exact.abs().max()))
    net = build(small("compute.dtype=bfloat16"), 5, PAIR, seed=1)
    net(images, DropoutKey(seed=1, step=2, first=0)).sum().backward()
    for parameter in net.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
