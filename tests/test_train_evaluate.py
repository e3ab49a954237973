"""Evaluation: exact counts, ties and all, and the views' probabilities averaged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import VAL_SHARDS, tiny_recipe, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import open_place
from train.augment import ImageStatistics, views
from train.evaluate import (
    class_counts,
    evaluate,
    probabilities,
    probabilities_by_views,
    score,
)
from train.network import build
from train.samples import Samples

CPU = torch.device("cpu")


@given(st.data(), st.integers(2, 12), st.integers(1, 30))
def test_counts_are_those_of_a_stable_sort(data: st.DataObject, classes: int, count: int) -> None:
    """With many ties: sorted by falling probability, then by label."""
    cell = st.integers(0, 4)
    table = data.draw(st.lists(st.tuples(*[cell] * classes), min_size=count, max_size=count))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    found = score(torch.tensor(table) / 16, torch.tensor(labels))
    order = np.argsort(-np.array(table), axis=1, kind="stable")
    assert found.samples == count
    assert found.top1_wrong == sum(order[i, 0] != labels[i] for i in range(count))
    assert found.top5_wrong == sum(labels[i] not in order[i, :5] for i in range(count))
    by_class = class_counts(torch.tensor(table) / 16, torch.tensor(labels))
    assert by_class.sum(0).tolist() == [count, found.top1_wrong, found.top5_wrong]
    for label in range(classes):
        own = [i for i in range(count) if labels[i] == label]
        wrong = [sum(label not in order[i, :k] for i in own) for k in (1, 5)]
        assert by_class[label].tolist() == [len(own), *wrong]


def test_a_probability_that_is_no_number_is_wrong() -> None:
    """It never counts as a right guess, and shows in the loss."""
    found = score(torch.full((3, 7), math.nan), torch.tensor([0, 3, 6]))
    assert (found.top1_wrong, found.top5_wrong) == (3, 3) and math.isnan(found.loss)


def test_a_split_is_scored_to_the_sample(tmp_path: Path) -> None:
    """Equal to one forward pass over all of it; ten views average ten softmaxes."""
    place = open_place(write_dataset(tmp_path / "data"))
    samples, recipe = Samples(place, "val"), tiny_recipe()
    stats = ImageStatistics.read(place.read("stats.npz"))
    network = build(recipe, 3, (CPU, CPU), 0)
    images, labels = samples.fetch(range(len(samples)))
    for num_views in (1, 10):
        shown = views(images, stats, recipe, num_views)
        with torch.no_grad():
            logits = torch.stack([network(shown[:, v].contiguous()) for v in range(num_views)], 1)
        mean = torch.softmax(logits, 2).mean(1)
        found = probabilities(network, images, stats, recipe, num_views)
        assert torch.allclose(found, mean, atol=1e-6)
        whole = evaluate(network, samples, stats, num_views=num_views)
        assert whole is not None and whole.samples == sum(VAL_SHARDS)
        assert whole.top1_wrong == int((mean.argmax(1) != labels).sum())
        own = mean[torch.arange(len(labels)), labels]
        assert whole.loss == pytest.approx(float(-own.log().sum()), rel=1e-5)


def test_ten_views_hold_the_centre(tmp_path: Path) -> None:
    """Picture by picture, the centre's probabilities are those of a pass of its own."""
    place = open_place(write_dataset(tmp_path / "data"))
    recipe, stats = tiny_recipe(), ImageStatistics.read(place.read("stats.npz"))
    network = build(recipe, 3, (CPU, CPU), 0)
    images, _ = Samples(place, "val").fetch(range(sum(VAL_SHARDS)))
    both = probabilities_by_views(network, images, stats, recipe, 10)
    assert list(both) == [1, 10]
    assert torch.equal(both[10], probabilities(network, images, stats, recipe, 10))
    centre = probabilities(network, images, stats, recipe, 1)
    assert torch.allclose(both[1], centre, atol=1e-6, rtol=0)
    assert not torch.allclose(both[10], centre, atol=1e-4, rtol=0)


def test_a_stop_leaves_without_a_score(tmp_path: Path) -> None:
    """A score of a part is never mistaken for one of the whole."""
    place = open_place(write_dataset(tmp_path / "data"))
    stats = ImageStatistics.read(place.read("stats.npz"))
    network = build(tiny_recipe(), 3, (CPU, CPU), 0)
    assert evaluate(network, Samples(place, "val"), stats, stop=lambda: True) is None
