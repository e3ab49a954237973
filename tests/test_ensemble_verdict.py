"""`septet evaluate`: both scores from one pass, and a table of classes that adds up."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from handmade import write_dataset
from seven import make_ensemble
from torch import Tensor

from ensemble import score as score_file
from ensemble.average import interval
from ensemble.cli import evaluate
from ensemble.model import Model, load_model
from ensemble.score import judge_batches, score_model, val_samples
from ensemble.verdict import Verdict, class_rows, class_table, judge
from infra.errors import DataError, InputError
from infra.manifest import ClassName
from infra.storage import open_place
from train.evaluate import Score
from train.samples import Samples

CLASSES, NUM_VAL = 8, 33


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two tiny members that know eight classes, so that top-5 may be wrong."""
    folder = tmp_path_factory.mktemp("verdict")
    write_dataset(folder / "dataset", val=(20, 13), classes=CLASSES)
    return make_ensemble(folder, members=2, epochs=12)  # enough to be right now and then


@pytest.fixture(scope="module")
def model(made: Path) -> Model:
    """It, loaded."""
    return load_model(open_place(made))


@pytest.fixture(scope="module")
def samples(made: Path) -> Samples:
    """Its dataset's validation split."""
    return val_samples(open_place(made.parent / "dataset"))


@pytest.fixture(scope="module")
def single(model: Model, samples: Samples) -> dict[int, np.ndarray]:
    """Each picture predicted alone, by the number of views: (pictures, classes)."""
    pictures = samples.fetch(np.arange(NUM_VAL))[0].split(1)
    return {
        views: np.concatenate([model.probabilities(picture, views) for picture in pictures])
        for views in (1, 10)
    }


def _ask(made: Path, *words: str) -> str:
    asked = [str(made), str(made.parent / "dataset"), *words]
    return CliRunner().invoke(evaluate, asked, catch_exceptions=False).stdout


def test_one_pass_gives_what_two_give(
    model: Model, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centre's counts beside the ten views' are those of a pass of its own; one reading."""
    monkeypatch.setattr(score_file, "BATCH", 8)
    alone = score_model(model, samples)
    read: list[int] = []
    fetch = samples.fetch
    monkeypatch.setattr(samples, "fetch", lambda ids: (read.extend(ids.tolist()), fetch(ids))[1])
    both = score_model(model, samples, num_views=10)
    assert (list(alone), list(both)) == ([1], [1, 10])
    assert sorted(read) == list(range(NUM_VAL))
    one, other = alone[1].score, both[1].score
    assert (one.samples, one.top1_wrong, one.top5_wrong) == (NUM_VAL, *_wrong(other))
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.loss != pytest.approx(both[10].score.loss, rel=1e-6)
    assert np.array_equal(alone[1].classes, both[1].classes)


def _wrong(score: Score) -> tuple[int, int]:
    return score.top1_wrong, score.top5_wrong


@pytest.mark.parametrize("views", [1, 10])
def test_classes_are_those_of_numpy(
    model: Model, samples: Samples, single: dict[int, np.ndarray], views: int
) -> None:
    """Counted from each picture alone; they add up to the score."""
    verdict = score_model(model, samples, num_views=10)[views]
    order = np.argsort(-single[views], axis=1, kind="stable")
    right = order == samples.labels[:, None]
    expected = np.zeros((CLASSES, 3), np.int64)
    for label, place in zip(samples.labels, right.argmax(1), strict=True):
        expected[label] += (1, place >= 1, place >= 5)
    assert np.array_equal(verdict.classes, expected)
    assert verdict.classes.sum(0).tolist() == [NUM_VAL, *_wrong(verdict.score)]
    assert 0 < verdict.score.top5_wrong < verdict.score.top1_wrong  # something to tell apart


@pytest.mark.parametrize("tasks", [2, 3, NUM_VAL])
def test_any_number_of_tasks_counts_the_same(model: Model, samples: Samples, tasks: int) -> None:
    """Pictures dealt to tasks, in batches of four, add up to the whole's counts."""
    whole = score_model(model, samples, num_views=10)
    dealt = [np.arange(first, NUM_VAL, tasks) for first in range(tasks)]
    parts = [
        judge_batches(
            model, [samples.fetch(ids[at : at + 4]) for at in range(0, len(ids), 4)], num_views=10
        )
        for ids in dealt
    ]
    for views in (1, 10):
        first, *rest = (part[views] for part in parts)
        for part in rest:
            first += part
        assert np.array_equal(first.classes, whole[views].classes)
        assert _wrong(first.score) == _wrong(whole[views].score)
        assert first.score.loss == pytest.approx(whole[views].score.loss, rel=1e-6)


def test_no_picture_is_kept(model: Model, samples: Samples) -> None:
    """Of thirty batches, the one in hand and the one that was are all that is alive."""
    images, labels = samples.fetch([0])
    given: list[weakref.ref[Tensor]] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(30):
            assert sum(picture() is not None for picture in given) <= 2
            batch = images.clone()
            given.append(weakref.ref(batch))
            yield batch, labels

    assert judge_batches(model, batches(), num_views=10)[10].score.samples == 30


def test_the_worst_class_comes_first() -> None:
    """By top-1, then top-5, then label; a class without pictures is last, without errors."""
    names = [ClassName(label=at, wnid=f"n{at}", words=f"word {at}") for at in range(6)]
    counts = [[4, 1, 0], [0, 0, 0], [4, 2, 1], [4, 2, 2], [8, 2, 0], [2, 0, 0]]
    score = judge(torch.eye(6), torch.arange(6), 1).score
    rows = class_rows(Verdict(views=1, score=score, classes=np.array(counts)), names)
    assert [row["label"] for row in rows] == [3, 2, 0, 4, 5, 1]
    assert (rows[0]["top1_error"], rows[0]["top5_error"]) == (0.5, 0.5)
    assert (rows[-1]["samples"], rows[-1]["top1_error"], rows[-1]["top5_error"]) == (0, None, None)
    lines = class_table(rows)
    assert " ".join(lines[1].split()) == "3 n3 4 2 50.00 % 2 50.00 % word 3"
    assert " ".join(lines[-1].split()) == "1 n1 0 0 - 0 - word 1"


def test_ten_views_are_shown_under_the_centre(made: Path, model: Model, samples: Samples) -> None:
    """A line each, with intervals; one view is one line."""
    found = score_model(model, samples, num_views=10)
    _, _, centre, ten = _ask(made, "--views", "10").splitlines()
    for shown, name, verdict in ((centre, "centre view", found[1]), (ten, "ten views", found[10])):
        low, high = (100 * bound for bound in interval(verdict.score.top1_wrong, NUM_VAL))
        error = 100 * verdict.score.top1_wrong / NUM_VAL
        assert shown.startswith(name)
        assert f"{error:.2f} % ({low:.2f} to {high:.2f} %)" in shown
    assert _ask(made).splitlines()[2:] == [centre]


def test_json_holds_the_centre_and_the_classes(made: Path, model: Model, samples: Samples) -> None:
    """Figures of the views asked for at the top, and what was there before is still there."""
    found = score_model(model, samples, num_views=10)
    plain = json.loads(_ask(made, "--json"))
    assert {"samples", "top1_error", "top5_error", "loss", "model", "views"} <= set(plain)
    assert not {"centre", "classes"} & set(plain)
    told = json.loads(_ask(made, "--views", "10", "--per-class", "--json").splitlines()[-1])
    assert (told["views"], told["samples"]) == (10, NUM_VAL)
    assert (told["top1_wrong"], told["top5_wrong"]) == _wrong(found[10].score)
    assert told["top1_interval"] == list(interval(found[10].score.top1_wrong, NUM_VAL))
    assert {key: plain[key] for key in told["centre"] if key != "loss"} == {
        key: value for key, value in told["centre"].items() if key != "loss"
    }
    assert told["centre"]["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert told["loss"] == pytest.approx(found[10].score.loss / NUM_VAL, rel=1e-6)
    assert told["classes"] == class_rows(found[10], model.classes)
    assert sum(row["top5_wrong"] for row in told["classes"]) == told["top5_wrong"]


def test_classes_are_shown_below(made: Path, model: Model, samples: Samples) -> None:
    """A row each under the scores."""
    rows = class_rows(score_model(model, samples)[1], model.classes)
    assert _ask(made, "--per-class").splitlines()[-CLASSES - 1 :] == class_table(rows)


def test_what_cannot_be_evaluated_is_a_sentence(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other classes, an empty split, a device that is not there: nothing is counted."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fewer = write_dataset(tmp_path / "fewer", classes=3)
    other, empty = tmp_path / "other", tmp_path / "empty"
    for folder in (other, empty):
        shutil.copytree(made.parent / "dataset", folder)
    manifest = json.loads((other / "dataset.json").read_text())
    manifest["classes"][2]["wnid"] = "n99"
    (other / "dataset.json").write_text(json.dumps(manifest))
    manifest["splits"]["val"] = {"samples": 0, "rejects": 33, "shards": []}
    (empty / "dataset.json").write_text(json.dumps(manifest))
    for dataset, words, error, text in (
        (fewer, (), DataError, "the 3 classes of .*fewer' are not those of .*, which knows 8"),
        (other, (), DataError, "label 2 is 'n99' there, 'n00000002' here"),
        (empty, (), DataError, "empty' has no samples in its split 'val'"),
        (other, ("--device", "cuda"), InputError, "no CUDA device"),
    ):
        with pytest.raises(error, match=text) as raised:
            CliRunner().invoke(evaluate, [str(made), str(dataset), *words], catch_exceptions=False)
        assert len(str(raised.value).splitlines()) == 1
