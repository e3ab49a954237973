"""Recipes: strict, complete, and the same after a trip through a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.recipes import (
    Augment,
    Network,
    Optimizer,
    ResponseNorm,
    Schedule,
    from_dict,
    load_recipe,
    recipe_names,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_defaults_are_the_papers_values() -> None:
    paper = load_recipe("paper")
    assert paper.network == Network()
    assert paper.norm == ResponseNorm()
    assert paper.augment == Augment()
    assert paper.optimizer == Optimizer()
    assert paper.schedule == Schedule()


def test_a_value_is_replaced() -> None:
    recipe = load_recipe(
        "paper",
        [
            "schedule.epochs=3",
            "layers.fc6.kernels=64",
            'augment.mean="centre"',
            "norm.within=layer",
        ],
    )
    assert recipe.schedule.epochs == 3
    assert recipe.layers["fc6"].kernels == 64
    assert recipe.layers["fc6"].bias == 1.0
    assert recipe.augment.mean == "centre"
    assert recipe.norm.within == "layer"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("schedule.epoch=3", "did you mean 'epochs'"),
        ("shedule.epochs=3", "did you mean 'schedule'"),
        ("schedule.epochs=0", "epochs is 0"),
        ("schedule.epochs=3.5", "schedule.epochs is 3.5; it must be of type int"),
        ("schedule.epochs=true", "schedule.epochs is True; it must be of type int"),
        ("schedule.epochs=many", "schedule.epochs is 'many'"),
        ("schedule.factor=1.0", "factor is 1.0"),
        ("schedule.kind=never", "'never'; allowed: 'plateau'"),
        ("schedule.own.conv9={at=[1], to=[0.1]}", "'conv9'; allowed: conv1"),
        ("schedule.own.conv1={at=[1], to=[]}", "allowed: 1 numbers"),
        ("schedule.own.conv1={at=[2, 1], to=[0.1, 0.1]}", "rising epochs"),
        ("optimizer.lr=nan", "optimizer.lr is nan"),
        ("optimizer.lr=-1", "lr is -1.0"),
        ("optimizer.lr.x=1", "'lr' is a value, not a table"),
        ("optimizer=1", "recipe.optimizer must be a table"),
        ("network.halves=3", "network.halves is 3; allowed: 1, 2"),
        ("network.halves=1.0", "network.halves is 1.0; allowed: 1, 2"),
        ("network.crop_px=300", "crop_px is 300"),
        ("network.shrink=3", "shrink is 3"),
        ("network.input_pad=[0,0,0]", "has 3 entries; it must have 4"),
        ("network.input_pad=3", "must be a list"),
        ("network.dropout=1.0", "dropout is 1.0"),
        ("layers.conv1.after=[relu]", "must be a list"),
        ('layers.conv1.after=["rely"]', "'rely'; allowed: 'relu'"),
        ("layers.conv1.size=0", "size, stride is (0, 4)"),
        ("layers.conv1=5", "recipe.layers.conv1 must be a table"),
        ("layers.conv6={kernels=3}", "recipe.layers.conv6 lacks the key 'kind'"),
        ("norm.size=4", "size is 4; allowed: an odd number"),
        ("epochs", "write it as key=value"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("paper", [change])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nsummary = "s"\n[layers]\nfc = { kind = "fc", kernels = 0 }\n')
    assert load_recipe(str(file)).layers["fc"].std == 0.01
    file.write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(file))
    with pytest.raises(ConfigError, match="there are: .*paper"):
        load_recipe("papper")
