"""Learning rates as pure functions of the epoch and the recorded errors."""

from __future__ import annotations

import math

import pytest

from infra.recipes import Schedule, load_recipe
from train.schedule import factor, plateaus, rates


def drops_at(schedule: Schedule, errors: list[float]) -> list[int]:
    """The epochs that begin with a lower rate than the one before."""
    found = [plateaus(schedule, errors[:epoch]) for epoch in range(len(errors) + 1)]
    return [epoch for epoch in range(1, len(found)) if found[epoch] > found[epoch - 1]]


def test_plateau_waits_for_patience_epochs_without_a_better_error() -> None:
    schedule = Schedule(patience=3, min_gain=0.01)
    errors = [0.9, 0.8, 0.7, 0.7, 0.695, 0.69, 0.5, 0.5, 0.5, 0.5]
    # 0.69 is not better than 0.7 by more than 0.01, so the wait is over after epochs 3, 4, 5
    assert drops_at(schedule, errors) == [6, 10]


def test_a_drop_is_given_time_and_drops_are_counted() -> None:
    errors = [0.5] + [0.6] * 40
    assert drops_at(Schedule(patience=5, drops=3), errors) == [6, 11, 16]
    assert drops_at(Schedule(patience=5, drops=1), errors) == [6]
    assert drops_at(Schedule(patience=5, drops=0), errors) == []


def test_slow_but_steady_gains_are_not_a_plateau() -> None:
    errors = [0.9 - 0.0004 * epoch for epoch in range(60)]  # below min_gain an epoch
    assert drops_at(Schedule(patience=5, min_gain=0.001), errors) == []


def test_a_decision_reads_only_the_epochs_before_it() -> None:
    recipe = load_recipe("paper", ["schedule.patience=2"])
    errors = [0.9, 0.8, 0.8, 0.8, 0.8, 0.3, 0.3, 0.3]
    for epoch in range(len(errors)):
        resumed = rates(recipe, epoch, errors[:epoch])
        assert rates(recipe, epoch, errors) == resumed
    assert math.isclose(rates(recipe, 4, errors).lr, 0.001)
    assert math.isclose(rates(recipe, 0, errors).lr, 0.01)


def test_listed_epochs() -> None:
    schedule = Schedule(kind="epochs", at=(25, 51, 79))
    levels = [factor(schedule, epoch, []) for epoch in (0, 24, 25, 50, 51, 78, 79, 90)]
    assert levels == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_steps() -> None:
    schedule = Schedule(kind="step", every=20, factor=0.1)
    levels = [factor(schedule, epoch, []) for epoch in (0, 19, 20, 40, 89)]
    assert levels == pytest.approx([1, 1, 0.1, 0.01, 1e-4])


def test_exponential_goes_from_one_to_final() -> None:
    schedule = Schedule(kind="exponential", epochs=11, final=0.01)
    levels = [factor(schedule, epoch, []) for epoch in range(11)]
    assert levels[0] == 1
    assert levels[5] == pytest.approx(0.1)
    assert levels[10] == pytest.approx(0.01)
    assert factor(Schedule(kind="exponential", epochs=1), 0, []) == 1


def test_all_layers_share_the_rate_unless_the_recipe_says_otherwise() -> None:
    found = rates(load_recipe("paper", ["optimizer.bias_lr=0.02"]), 0, [])
    assert set(found.weights.values()) == {0.01}
    assert set(found.biases.values()) == {0.02}
    assert list(found.weights) == list(load_recipe("paper").layers)


def test_biases_may_follow_only_the_first_drops() -> None:
    changes = ["schedule.kind=epochs", "schedule.at=[2, 4, 6]", "optimizer.bias_lr=0.02"]
    for bias_drops, expected in ((0, [0.02] * 4), (1, [0.02, 0.002, 0.002, 0.002])):
        recipe = load_recipe("paper", [*changes, f"schedule.bias_drops={bias_drops}"])
        found = [rates(recipe, epoch, []) for epoch in (0, 2, 4, 6)]
        assert [r.biases["fc6"] for r in found] == pytest.approx(expected)
        assert [r.weights["fc6"] for r in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])


def test_a_layer_may_keep_its_own_list_and_freeze() -> None:
    recipe = load_recipe(
        "paper",
        [
            "schedule.kind=epochs",
            "schedule.at=[5]",
            "schedule.own.conv1={at=[3, 7], to=[0.5, 0.0]}",
        ],
    )
    found = [rates(recipe, epoch, []) for epoch in (0, 3, 5, 7)]
    assert [r.weights["conv1"] for r in found] == pytest.approx([0.01, 0.005, 0.005, 0])
    assert [r.biases["conv1"] for r in found] == pytest.approx([0.01, 0.01, 0.001, 0])
    assert [r.weights["conv2"] for r in found] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert found[3].weights["conv1"] == 0.0  # exactly: the update is skipped
