"""The report: the figures of `ensemble.json`, the same bytes each time, nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from seven import copy, make_ensemble

from ensemble.examples import choose
from ensemble.manifest import PAGE, read_ensemble
from ensemble.plots import colour_share, kernel_pictures
from ensemble.report import read_folder, render, write_report
from infra.errors import DamageError, DataError
from infra.storage import open_place


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of three tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("report"))


def test_it_is_rebuilt_to_the_same_bytes_from_the_folder_alone(made: Path, tmp_path: Path) -> None:
    """Elsewhere, without dataset, checkpoints and plan."""
    folder = copy(made, tmp_path / "moved" / "ensemble")
    (folder / PAGE).unlink()
    (folder / "plan.json").unlink()
    for name in ("1", "2", "3"):
        (folder / f"members/{name}/job.json").unlink()
    write_report(open_place(folder))
    assert (folder / PAGE).read_bytes() == (made / PAGE).read_bytes()


def test_its_figures_are_those_of_the_ensemble(made: Path) -> None:
    """Every figure of the table, and the headline."""
    ensemble, digest = read_ensemble(open_place(made))
    page = (made / PAGE).read_text()
    shown = dict(re.findall(r'data-figure="([^"]+)">([^<]+)<', page))
    expected = {"headline": f"{100 * ensemble.score.top1_error:.1f} %"}
    for part in ensemble.members:
        expected[f"member-{part.number}-top1"] = f"{100 * part.score.top1_error:.2f} %"
        expected[f"member-{part.number}-top5"] = f"{100 * part.score.top5_error:.2f} %"
    for name in ("top1", "top5"):
        alone = [getattr(part.score, f"{name}_error") for part in ensemble.members]
        expected[f"mean-{name}"] = f"{100 * np.mean(alone):.2f} %"
        expected[f"ensemble-{name}"] = f"{100 * getattr(ensemble.score, f'{name}_error'):.2f} %"
    assert shown == expected
    assert digest in page and ensemble.dataset["sha256"] in page
    for orientation in ("40.7 %", "18.2 %", "36.7 %", "15.4 %"):
        assert orientation in page


def test_nothing_comes_from_outside(made: Path) -> None:
    """No address is loaded, no script runs, and ids do not collide."""
    page = (made / PAGE).read_text()
    assert "<script" not in page and "javascript:" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert page.count("<svg") == 3
    colours = re.findall(r"#0[1-6]0[1-6]0[1-6]\b", page)
    assert not colours, "a stand-in colour was left"


def test_names_cannot_break_out_of_the_page(made: Path) -> None:
    """Class names, keys and reasons come from outside."""
    folder = read_folder(open_place(made))
    hostile = '"><script>alert(1)</script>'
    ensemble = replace(
        folder.ensemble,
        classes=tuple(replace(name, words=hostile) for name in folder.ensemble.classes),
        dataset={**folder.ensemble.dataset, "uri": hostile},
    )
    examples = tuple(replace(example, key=hostile) for example in folder.examples)
    page = render(replace(folder, ensemble=ensemble, examples=examples))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_a_harmed_folder_gives_no_page(made: Path, tmp_path: Path) -> None:
    """Figures from harmed files would be lies."""
    for name in ("members/2/metrics.jsonl", "report/examples.json", "members/1/member.json"):
        folder = copy(made, tmp_path / name.replace("/", "-"))
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"1", b"2", 1))
        with pytest.raises(DamageError, match=Path(name).name):
            write_report(open_place(folder))
    with pytest.raises(DataError, match=r"ensemble\.json"):
        write_report(open_place(tmp_path / "nothing"))


def test_kernels_keep_their_half_and_their_scale() -> None:
    """One picture a half; grey kernels have no colour, colour ones nothing but colour."""
    grey = np.repeat(np.random.default_rng(0).normal(size=(48, 1, 11, 11)), 3, 1)
    colour = np.random.default_rng(1).normal(size=(48, 3, 11, 11))
    colour -= colour.mean(1, keepdims=True)
    assert colour_share(grey.astype(np.float32)) == pytest.approx(0, abs=1e-9)
    assert colour_share(colour.astype(np.float32)) == pytest.approx(1, abs=1e-6)
    both = np.concatenate([grey, colour]).astype(np.float32)
    pictures = kernel_pictures(both, 2)
    assert len(pictures) == 2 and pictures == kernel_pictures(both, 2)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_examples_are_of_as_many_classes_as_there_are() -> None:
    """Eight of a thousand classes; of three classes, all three first, and none twice."""
    many = choose(np.repeat(np.arange(1000), 5))
    assert len(set((many // 5).tolist())) == 8
    few = choose(np.arange(40) % 3)
    assert len(set(few.tolist())) == 8 and set((few[:3] % 3).tolist()) == {0, 1, 2}
    assert len(choose(np.array([0, 1]))) == 2
