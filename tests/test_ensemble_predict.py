"""Prediction: from files, folders and hostile tars; bad pictures are named, the rest predicted."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import jpeg
from PIL import Image
from seven import make_ensemble

from ensemble.model import Model, load_model
from ensemble.pictures import Named, demand_sources, pictures
from ensemble.predict import predict
from ensemble.serving import _load_pyfunc
from infra.errors import DataError
from infra.storage import open_place
from pipeline.image import square


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two tiny members."""
    return make_ensemble(tmp_path_factory.mktemp("predict"), members=2)


@pytest.fixture(scope="module")
def model(made: Path) -> Model:
    """It, loaded."""
    return load_model(open_place(made))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, two files that are none but are named so, and one that is not meant."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    (root / "a.jpg").write_bytes(jpeg(1))
    (root / "b.JPEG").write_bytes(jpeg(2)[:200])
    (root / "deep/c.png").write_bytes(_png(3))
    (root / "d.jpg").write_bytes(b"")
    (root / "e.jpg").write_bytes(jpeg(5))
    (root / "notes.txt").write_text("not a picture, and not named like one")
    return root


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_bad_pictures_are_named_and_the_rest_predicted(model: Model, folder: Path) -> None:
    """In order, each with its reason; probabilities fall and belong to classes."""
    found = list(predict(model, pictures([str(folder), str(folder / "a.jpg")]), top=3))
    assert [prediction.name for prediction in found] == [
        *("a.jpg", "b.JPEG", "d.jpg", "deep/c.png", "e.jpg"),
        str(folder / "a.jpg"),
    ]
    assert [prediction.reason for prediction in found] == ["", "corrupt", "empty", "", "", ""]
    for prediction in found:
        shares = [guess.probability for guess in prediction.guesses]
        assert shares == sorted(shares, reverse=True)
        if not prediction.reason:
            assert sum(shares) == pytest.approx(1)  # three classes in all
    assert found[0].guesses[0].words == f"class {found[0].guesses[0].label}"


def test_a_prediction_is_the_average_over_preprocessed_pixels(model: Model) -> None:
    """By hand: resized as preprocessing does, each member asked, averaged."""
    pixels = torch.from_numpy(square(jpeg(7)).pixels).permute(2, 0, 1)[None]
    expected = model.probabilities(pixels, 10)[0]
    (found,) = predict(model, [Named(name="x", data=jpeg(7))], top=3, num_views=10)
    for guess in found.guesses:
        assert guess.probability == expected[guess.label].item()


def test_a_tar_gives_what_its_folder_gives(model: Model, folder: Path, tmp_path: Path) -> None:
    """Streamed, the same pictures to the bit."""
    names = ["a.jpg", "b.JPEG", "d.jpg", "deep/c.png", "e.jpg"]
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in [*names, "notes.txt"]:
            tar.add(folder / name, name)
    from_tar = list(predict(model, pictures([str(tmp_path / "all.tar")])))
    assert from_tar == list(predict(model, pictures([str(folder)])))


def test_a_hostile_tar_reaches_nothing(folder: Path, tmp_path: Path) -> None:
    """Links, devices and escaping names: only regular files' bytes are read, none is written."""
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind, link in (
            ("link.jpg", tarfile.SYMTYPE, str(folder / "a.jpg")),
            ("hard.jpg", tarfile.LNKTYPE, "../../etc/passwd"),
            ("device.jpg", tarfile.CHRTYPE, ""),
            ("fifo.jpg", tarfile.FIFOTYPE, ""),
            ("folder.jpg", tarfile.DIRTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            tar.addfile(entry)
        for name in ("../../escaped.jpg", "/tmp/absolute.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"data"))
    before = sorted(tmp_path.rglob("*"))
    found = list(pictures([str(path)]))
    assert found == [
        Named(name="../../escaped.jpg", data=b"data"),
        Named(name="/tmp/absolute.jpg", data=b"data"),
    ]
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/absolute.jpg").exists()


def test_a_tar_that_is_cut_or_none_says_so(folder: Path, tmp_path: Path) -> None:
    """After the pictures before the cut, one sentence with the tar's name."""
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.jpg", "deep/c.png"):
            tar.add(folder / name, name)
    path.write_bytes(path.read_bytes()[:20_000])
    found = pictures([str(path)])
    assert next(found).name == "a.jpg"
    with pytest.raises(DataError, match=r"cut\.tar"):
        list(found)
    (tmp_path / "none.tar").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match=r"none\.tar"):
        list(pictures([str(tmp_path / "none.tar")]))


def test_absent_and_empty_sources_are_input_errors(tmp_path: Path) -> None:
    """Before anything is loaded, or as soon as it is known."""
    with pytest.raises(DataError, match=r"there is no .*none\.jpg"):
        demand_sources([str(tmp_path / "none.jpg")])
    demand_sources([str(tmp_path)])
    with pytest.raises(DataError, match="holds no picture"):
        list(pictures([str(tmp_path)]))


def test_memory_stays_flat(model: Model, tmp_path: Path) -> None:
    """A tar of many members costs what one of few does (1 MB would be 100 bytes a member)."""
    peaks = []
    for count in (2000, 12_000):  # both longer than what is read ahead
        path = tmp_path / f"{count}.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(count):
                tar.addfile(tarfile.TarInfo(f"{number:06}.jpg"))
        tracemalloc.start()
        refused = sum(found.reason == "empty" for found in predict(model, pictures([str(path)])))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert refused == count
    assert peaks[1] < peaks[0] + (1 << 20), peaks


def test_what_mlflow_calls_gives_the_same(made: Path, model: Model) -> None:
    """The loader that the registered model names, on a table with a bad row."""
    table = {"image": [jpeg(1), b"no picture", jpeg(2)]}
    rows = _load_pyfunc(str(made)).predict(table, params={"top": 2, "views": 1})
    found = list(predict(model, _named(table["image"]), top=2))
    assert [row["label"] for row in rows] == [[g.label for g in p.guesses] for p in found]
    assert [row["reason"] for row in rows] == ["", "not_an_image", ""]
    assert rows[0]["probability"] == [guess.probability for guess in found[0].guesses]


def _named(data: list[bytes]) -> Iterator[Named]:
    return (Named(name=str(at), data=some) for at, some in enumerate(data))
