"""Averaging: equal members change nothing, and counts are those of an independent reckoning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from seven import NUM_VAL, make_ensemble
from torch import Tensor

from ensemble.average import (
    add_scores,
    average,
    interval,
    member_probabilities,
    prefix_averages,
    score_members,
)
from ensemble.measure import Piece, Request, measure_here, measure_piece
from infra.storage import open_place
from train.evaluate import Score, score
from train.member import LoadedMember, load_member
from train.samples import Samples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of three tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("average"))


@pytest.fixture(scope="module")
def members(made: Path) -> list[LoadedMember]:
    """Its members, loaded."""
    return [load_member(open_place(made / f"members/{number}")) for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def val(made: Path) -> tuple[Tensor, Tensor]:
    """All validation pictures and labels of its dataset."""
    samples = Samples(open_place(made.parent / "dataset"), "val")
    return samples.fetch(np.arange(len(samples)))


def test_seven_equal_members_are_the_member(
    members: list[LoadedMember], val: tuple[Tensor, Tensor]
) -> None:
    """Bit for bit, for every number of them."""
    found = member_probabilities(members[:1] * 7, val[0])
    for mean in prefix_averages(found, [1.0] * 7):
        assert torch.equal(mean, found[0])


def test_prefixes_are_the_averages_of_the_first_members() -> None:
    """The k-th is the average of the first k alone, with their weights."""
    found = torch.rand(5, 4, 6, dtype=torch.float64)
    weights = [1.0, 2.0, 0.5, 1.0, 3.0]
    for size, mean in enumerate(prefix_averages(found, weights), 1):
        expected = np.average(found[:size].numpy(), axis=0, weights=weights[:size])
        np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-14)
        assert torch.equal(mean, average(found[:size], weights[:size]))


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1,) * 11])
def test_streamed_counts_are_those_of_numpy(
    members: list[LoadedMember], val: tuple[Tensor, Tensor], sizes: tuple[int, ...]
) -> None:
    """Whatever the batches: each member's and each average's errors, counted another way."""
    images, labels = val
    batches = zip(images.split(sizes), labels.split(sizes), strict=True)
    scores = score_members(members, [1.0] * 3, batches)
    found = member_probabilities(members, images).numpy()
    for at in range(3):
        assert scores.members[at].samples == NUM_VAL
        _same(scores.members[at], found[at], labels.numpy())
        _same(scores.averaged[at], found[: at + 1].mean(0), labels.numpy())


def _same(counted: Score, found: np.ndarray, labels: np.ndarray) -> None:
    order = np.argsort(-found, axis=1, kind="stable")
    assert counted.top1_wrong == int((order[:, 0] != labels).sum())
    missed = ~(order[:, :5] == labels[:, None]).any(1)
    assert counted.top5_wrong == int(missed.sum())
    loss = -np.log(found[np.arange(len(labels)), labels]).sum()
    assert counted.loss == pytest.approx(loss, rel=1e-6)


def test_ties_go_to_the_lower_label() -> None:
    """A model that knows nothing of eight classes is right on label 0, and in five on 0 to 4."""
    flat = torch.full((1, 3, 8), 1 / 8, dtype=torch.float64)
    found = score(average(flat, [1.0]), torch.tensor([0, 4, 5]))
    assert (found.top1_wrong, found.top5_wrong) == (2, 1)


def test_any_number_of_tasks_counts_the_same(made: Path) -> None:
    """Samples dealt to tasks add up to the whole, to the picture."""
    request = Request(
        runs=tuple(str(made / f"members/{number}") for number in (1, 2, 3)),
        weights=(1.0,) * 3,
        dataset=str(made.parent / "dataset"),
        views=10,
        device="cpu",
        cores=1,
    )
    whole, examples = measure_here(request)
    assert len(examples) == 8 and len({example.label for example in examples}) == 3
    pieces = [Piece(request=request, first=at, step=3, examples=()) for at in range(3)]
    first, *rest = (measure_piece(piece)[0] for piece in pieces)
    for scores in rest:
        first = add_scores(first, scores)
    assert [s.top1_wrong for s in first.averaged] == [s.top1_wrong for s in whole.averaged]
    assert [s.top5_wrong for s in first.members] == [s.top5_wrong for s in whole.members]
    assert first.averaged[-1].samples == NUM_VAL
    assert first.averaged[-1].loss == pytest.approx(whole.averaged[-1].loss, rel=1e-6)


def test_the_interval_is_wilsons() -> None:
    """Against the published example 10 of 100, and at the ends."""
    assert interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert interval(0, 50)[0] == 0 and 0 < interval(0, 50)[1] < 0.1
    assert interval(50, 50)[1] == pytest.approx(1)
