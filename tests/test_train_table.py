"""The paper's table of layers, row by row, from the recipe."""

from __future__ import annotations

import pytest

from infra.errors import ConfigError
from infra.recipes import load_recipe
from train.table import layer_table

# name: kernels, reads, input px, output px, px handed upwards, parameters, multiply-adds, neurons
PAPER = {
    "conv1": (96, 3, 227, 55, 27, 34_944, 105_415_200, 290_400),
    "conv2": (256, 48, 27, 27, 13, 307_456, 223_948_800, 186_624),
    "conv3": (384, 256, 13, 13, 13, 885_120, 149_520_384, 64_896),
    "conv4": (384, 192, 13, 13, 13, 663_936, 112_140_288, 64_896),
    "conv5": (256, 192, 13, 13, 6, 442_624, 74_760_192, 43_264),
    "fc6": (4096, 9216, 1, 1, 1, 37_752_832, 37_748_736, 4096),
    "fc7": (4096, 4096, 1, 1, 1, 16_781_312, 16_777_216, 4096),
    "fc8": (1000, 4096, 1, 1, 1, 4_097_000, 4_096_000, 1000),
}


def test_the_papers_rows() -> None:
    found = {
        row.name: (
            row.kernels,
            row.reads,
            row.input_px,
            row.output_px,
            row.pooled_px,
            row.parameters,
            row.multiply_adds,
            row.neurons,
        )
        for row in layer_table(load_recipe("paper"), 1000)
    }
    assert found == PAPER


def test_the_papers_totals() -> None:
    rows = layer_table(load_recipe("paper"), 1000)
    assert sum(row.parameters for row in rows) == 60_965_224
    assert sum(row.weights for row in rows) == 60_954_656
    assert sum(row.multiply_adds for row in rows) == 724_406_816
    assert sum(row.neurons for row in rows) == 659_272
    assert [row.halves for row in rows] == [2] * 7 + [1]


def test_floor_rounding_of_224_is_told_apart() -> None:
    rows = layer_table(load_recipe("paper", ["network.input_pad=[0,0,0,0]"]), 1000)
    assert [row.output_px for row in rows[:5]] == [54, 26, 12, 12, 12]


def test_one_half_reads_everything() -> None:
    rows = layer_table(load_recipe("paper", ["network.halves=1"]), 1000)
    assert [row.reads for row in rows[:5]] == [3, 96, 256, 384, 384]
    assert sum(row.parameters for row in rows) == 62_378_344
    assert sum(row.multiply_adds for row in rows) == 1_135_256_096


def test_no_communication_at_fc7() -> None:
    rows = layer_table(load_recipe("paper", ["layers.fc7.sees=own"]), 1000)
    assert rows[6].reads == 2048
    assert rows[7].reads == 4096  # the last layer is whole, so it reads both


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("layers.conv2.kernels=255", "conv2"),
        ("network.crop_px=32", "conv5"),
        ("network.input_pad=[0,3,0,0]", "input_pad"),
        ("layers.fc8.kernels=10", "fc8"),
        ("layers.fc6.kernels=0", "fc6"),
        ("layers.conv9.kind=conv", "fc8"),
        ("layers.fc7.kind=conv", "fc7"),
    ],
)
def test_impossible_networks_are_refused_by_name(change: str, named: str) -> None:
    changes = [change, "layers.conv9.kernels=8"] if "conv9" in change else [change]
    with pytest.raises(ConfigError, match=named):
        layer_table(load_recipe("paper", changes), 1000)
