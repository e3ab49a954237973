"""What is said of a recipe: known totals, who reads what, and every departure from the paper."""

from __future__ import annotations

import pytest

from infra.recipes import from_dict, load_recipe, recipe_names
from train.describe import departures, describe, layer_rows, totals


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("paper", 60_965_224, 724_406_816),
        ("source2012", 60_965_224, 724_406_816),
        ("caffe", 60_965_224, 724_406_816),
        ("blog", 62_378_344, 1_135_256_096),
        ("half", 59_798_312, 391_514_384),
        ("conv6", 61_555_304, 745_640_480),
    ],
)
def test_the_known_totals(name: str, parameters: int, multiply_adds: int) -> None:
    found = totals(load_recipe(name))
    assert found["parameters"] == parameters
    assert found["multiply_adds"] == multiply_adds
    text = "\n".join(describe(load_recipe(name)))
    assert f"{parameters:,} parameters" in text
    assert f"{multiply_adds / 1e6:,.1f} M multiply-adds" in text


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_described_a_line_a_layer(name: str) -> None:
    recipe = load_recipe(name)
    lines, rows = describe(recipe), layer_rows(recipe)
    assert [row["layer"] for row in rows] == list(recipe.layers)
    for row in rows:
        (line,) = (line for line in lines if line.startswith(f"{row['layer']} "))
        assert f"{row['parameters']:,}" in line
        assert f"{row['multiply_adds']:,}" in line
    assert sum(row["parameters"] for row in rows) == totals(recipe)["parameters"]


def test_who_reads_what() -> None:
    reads = {row["layer"]: row["reads"] for row in layer_rows(load_recipe("paper"))}
    assert reads["conv1"] == "image"
    both = [layer for layer, what in reads.items() if what == "both halves"]
    assert both == ["conv3", "fc6", "fc7", "fc8"]
    assert {row["reads"] for row in layer_rows(load_recipe("half"))} == {"all"}
    whole = layer_rows(load_recipe("paper", ["layers.fc8.sees=own"]))[-1]
    assert whole["reads"] == "both halves"  # the last layer is not divided, so it has no own half


def test_departures_are_all_that_differs() -> None:
    assert departures(load_recipe("paper")) == []
    assert "The paper's values throughout." in describe(load_recipe("paper"))
    changed = load_recipe("paper", ["optimizer.lr=0.02", "norm.k=1.0"])
    assert sorted(departures(changed)) == [("norm.k", 2.0, 1.0), ("optimizer.lr", 0.01, 0.02)]
    assert sorted(key for key, _, _ in departures(load_recipe("half"))) == [
        "layers.conv1.kernels",
        "layers.conv2.kernels",
        "layers.conv3.kernels",
        "layers.conv4.kernels",
        "network.halves",
    ]
    sixth = departures(load_recipe("conv6"))
    assert all(key.startswith("layers.conv6.") and was is None for key, was, _ in sixth)
    shallow = load_recipe("paper").to_dict()
    del shallow["layers"]["conv4"]
    lost = {key: (was, now) for key, was, now in departures(from_dict(shallow))}
    assert lost["layers.conv4.kernels"] == (384, None)
    assert all(key.startswith("layers.conv4.") for key in lost)
    own = dict((key, now) for key, _, now in departures(load_recipe("source2012")))
    assert own["norm.alpha"] == 2e-5
    assert own["schedule.own.conv1.to"] == (0.1, 0.01, 0.001, 0.0)
