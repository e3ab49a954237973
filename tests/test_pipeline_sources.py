"""Every kind of source gives the same images and labels; odd and hostile archives are named."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photos import class_folders, tree
from scipy.io import savemat

from infra.errors import ConfigError, DataError
from infra.manifest import ClassName
from infra.storage import open_place
from pipeline.devkit import DEVKIT, META, TRAIN, TRUTH, VAL, read_devkit
from pipeline.listing import Columns, Listing
from pipeline.plan import order_of
from pipeline.run import Job, in_process, preprocess
from pipeline.sources import SourceRules, check_official, read_source, recognise
from pipeline.tarindex import members

SHORT = SourceRules(allow_shortfall=True)
IDS = {"n00": 3, "n01": 1, "n02": 2}  # ILSVRC2012_ID: another order than the wnids'


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """A tar of some files."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def devkit(path: Path, truth: list[int], images: int) -> None:
    """A devkit of three classes, and one inner node as the real one has them."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "num_children", "num_train_images"]
    synsets = np.zeros(4, dtype=[(name, object) for name in fields])
    for row, (wnid, number) in enumerate([*IDS.items(), ("n99", 1001)]):
        synsets[row] = (number, wnid, f"words of {wnid}", 2 if wnid == "n99" else 0, images)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    lines = "".join(f"{number}\n" for number in truth).encode()
    plain = pack(path.with_suffix(""), {f"kit/{META}": meta.getvalue(), f"kit/{TRUTH}": lines})
    with tarfile.open(path, "w:gz") as archive, tarfile.open(plain) as source:
        for member in source:
            archive.addfile(member, source.extractfile(member))
    plain.unlink()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four images."""
    return class_folders(tmp_path_factory.mktemp("folders") / "s", classes=3, images=4)


def of_class(folders: Path, wnid: str) -> dict[str, bytes]:
    """The files of a class by name."""
    return {path.name: path.read_bytes() for path in sorted((folders / wnid).iterdir())}


@pytest.fixture(scope="module")
def ilsvrc(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three archives: a tar of class tars, the val tar, the devkit."""
    root = tmp_path_factory.mktemp("ilsvrc")
    inner = {}
    for wnid in reversed(IDS):  # in no helpful order
        inner[f"{wnid}.tar"] = pack(root / "x", of_class(folders, wnid)).read_bytes()
    (root / "x").unlink()
    pack(root / TRAIN, inner)
    pictures = [of_class(folders, wnid)["photo.0.JPEG"] for wnid in ("n02", "n00", "n01")]
    val = {f"ILSVRC2012_val_{n:08d}.JPEG": raw for n, raw in enumerate(pictures, start=1)}
    pack(root / VAL, dict(reversed(val.items())))
    devkit(root / DEVKIT, [IDS["n02"], IDS["n00"], IDS["n01"]], images=4)
    return root


def contents(root: Path, listing: Listing) -> set[tuple[str, bytes]]:
    """(class, bytes) of every image, read as a shard's task does."""
    place = open_place(root)
    found = set()
    for row in range(len(listing)):
        file = listing.places[listing.groups[row]].file
        offset, size = int(listing.offsets[row]), int(listing.sizes[row])
        data = (
            place.read_range(file, offset, size)
            if file is not None
            else place.read(listing.path(row))
        )
        found.add((listing.classes[listing.labels[row]].wnid, data))
    assert len(found) == len(listing)
    return found


def class_tars(folders: Path, root: Path) -> Path:
    """The Fall 2011 release."""
    for wnid in IDS:
        pack(root / f"{wnid}.tar", of_class(folders, wnid))
    return root


def kaggle(folders: Path, root: Path) -> Path:
    """The CLS-LOC layout."""
    images = root / "ILSVRC/Data/CLS-LOC"
    shutil.copytree(folders, images / "train")
    for part in ("val", "test"):
        (images / part).mkdir()
        shutil.copy(folders / "n01/photo.0.JPEG", images / part / "ILSVRC2012_val_00000001.JPEG")
    names = "".join(f"{wnid} words of {wnid}\n" for wnid in IDS)
    (root / "LOC_synset_mapping.txt").write_text(names)
    truth = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01 1 2 3 4 \n"
    (root / "LOC_val_solution.csv").write_text(truth)
    return root


@pytest.mark.parametrize("make", [class_tars, kaggle])
def test_class_tars_and_kaggle_hold_the_same_images(
    folders: Path, tmp_path: Path, make: Callable[[Path, Path], Path]
) -> None:
    """As the class folders they were made from."""
    splits = read_source(open_place(make(folders, tmp_path)), SHORT)
    plain = read_source(open_place(folders), SourceRules())["train"]
    assert contents(tmp_path, splits["train"]) == contents(folders, plain)
    if make is kaggle:
        assert [c.words for c in splits["train"].classes][1] == "words of n01"
        assert splits["val"].labels.tolist() == [1]


def test_ilsvrc_is_read_in_place(folders: Path, ilsvrc: Path) -> None:
    """A tar of tars by offsets, the val labels from the devkit, classes by sorted wnid."""
    splits = read_source(open_place(ilsvrc), SHORT)
    plain = read_source(open_place(folders), SourceRules())["train"]
    assert contents(ilsvrc, splits["train"]) == contents(folders, plain)
    assert [c.wnid for c in splits["train"].classes] == ["n00", "n01", "n02"]
    assert splits["train"].classes[0].words == "words of n00"
    assert splits["val"].labels.tolist() == [2, 0, 1]
    assert splits["train"].path(0).endswith(".tar/photo.0.JPEG")


def test_labels_in_the_devkits_order(folders: Path, ilsvrc: Path) -> None:
    """Classes by ILSVRC2012_ID; every image keeps its class."""
    rules = SourceRules(label_order="ilsvrc", allow_shortfall=True)
    splits = read_source(open_place(ilsvrc), rules)
    assert [c.wnid for c in splits["train"].classes] == ["n01", "n02", "n00"]
    assert [c.label for c in splits["train"].classes] == [0, 1, 2]
    by_wnid = read_source(open_place(ilsvrc), SHORT)
    for split in ("train", "val"):
        assert contents(ilsvrc, splits[split]) == contents(ilsvrc, by_wnid[split])
    with pytest.raises(DataError, match="devkit"):
        read_source(open_place(folders), SourceRules(label_order="ilsvrc"))


def test_an_ilsvrc_that_is_not_whole_is_named(
    ilsvrc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its totals, and class by class against the devkit."""
    with pytest.raises(DataError, match=r"1,281,167 train images.*has 12;.*--allow-shortfall"):
        read_source(open_place(ilsvrc), SourceRules())
    monkeypatch.setattr("pipeline.sources.OFFICIAL", {"train": 12, "val": 3})
    splits, kit = read_source(open_place(ilsvrc), SourceRules()), read_devkit(open_place(ilsvrc))
    check_official(splits, kit)
    wrong = dataclasses.replace(kit, official=(4, 5, 3))
    with pytest.raises(DataError, match="class n01 of ILSVRC-2012 has 5 train images, here 4"):
        check_official(splits, wrong)


def test_our_own_dataset_is_a_source(folders: Path, ilsvrc: Path, tmp_path: Path) -> None:
    """WebDataset tars: both splits, with the names of its classes; and it can be made again."""
    first = Job(source=str(ilsvrc), dataset=str(tmp_path / "a"), rules=SHORT, shard_samples=5)
    preprocess(first, in_process)
    place = open_place(tmp_path / "a")
    assert recognise(place) == "webdataset"
    splits = read_source(place, SourceRules())
    assert {split: len(listing) for split, listing in splits.items()} == {"train": 12, "val": 3}
    assert [c.words for c in splits["train"].classes] == [f"words of {wnid}" for wnid in IDS]
    second = Job(source=str(tmp_path / "a"), dataset=str(tmp_path / "b"), shard_samples=5)
    assert preprocess(second, in_process).splits["train"]["samples"] == 12


def test_a_dataset_from_tars_has_the_pictures_of_one_from_folders(
    folders: Path, tmp_path: Path
) -> None:
    """Shard for shard the same bytes: only the index knows where they came from."""
    (tmp_path / "tars").mkdir()
    for source, name in ((folders, "a"), (class_tars(folders, tmp_path / "tars"), "b")):
        place = tmp_path / "out" / name
        preprocess(Job(source=str(source), dataset=str(place), shard_samples=5), in_process)
    one, two = (tree(tmp_path / "out" / name) for name in "ab")
    same = [name for name in one if name.endswith((".tar", ".npz"))]
    assert len(same) == 4 and all(one[name] == two[name] for name in same)


def test_formats_can_be_named(folders: Path) -> None:
    """And an unknown one is refused."""
    assert len(read_source(open_place(folders), SourceRules(format="folders"))["train"]) == 12
    with pytest.raises(ConfigError, match="--format is 'zip'; it must be one of folders"):
        SourceRules(format="zip")


def special(path: Path, kind: bytes) -> Path:
    """A tar with one member that is no regular file."""
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("photo.JPEG")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    return path


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "climbs": (lambda p: pack(p, {"../../x.JPEG": b"1"}), "unsafe name"),
    "absolute": (lambda p: pack(p, {"/etc/passwd": b"1"}), "unsafe name"),
    "backslash": (lambda p: pack(p, {"a\\b": b"1"}), "unsafe name"),
    "symbolic link": (lambda p: special(p, tarfile.SYMTYPE), "link or device"),
    "hard link": (lambda p: special(p, tarfile.LNKTYPE), "link or device"),
    "device": (lambda p: special(p, tarfile.CHRTYPE), "link or device"),
    "fifo": (lambda p: special(p, tarfile.FIFOTYPE), "link or device"),
    "cut off": (
        lambda p: p.write_bytes(pack(p, {"a.JPEG": b"x" * 5000}).read_bytes()[:2000]),
        "cut off",
    ),
    "not a tar": (lambda p: p.write_bytes(b"<html>" * 500), "not a tar header"),
    "empty": (lambda p: pack(p, {}), "no images"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tars_are_named_and_leave_nothing(tmp_path: Path, name: str) -> None:
    """One sentence; nothing is written anywhere."""
    make, said = HOSTILE[name]
    (tmp_path / "s").mkdir()
    make(tmp_path / "s" / "n00.tar")
    before = tree(tmp_path)
    rules = SourceRules(format="class-tars")
    job = Job(source=str(tmp_path / "s"), dataset=str(tmp_path / "d"), rules=rules)
    with pytest.raises(DataError, match=said):
        preprocess(job, in_process)
    assert tree(tmp_path) == before


def test_a_name_that_comes_twice_is_an_error_with_both_offsets(tmp_path: Path) -> None:
    """Which one is meant cannot be known."""
    with tarfile.open(tmp_path / "n00.tar", "w") as tar:
        for data in (b"1", b"2"):
            info = tarfile.TarInfo("a.JPEG")
            info.size = 1
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError, match="'a.JPEG' twice, at bytes 512 and 1,536"):
        list(members(open_place(tmp_path), "n00.tar", 0, (tmp_path / "n00.tar").stat().st_size))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_every_tar_dialect(tmp_path: Path, form: int) -> None:
    """GNU and pax extensions; offsets point at the data."""
    path = tmp_path / "a.tar"
    names = ["short", f"{'d' * 90}/{'ü' * (0 if form == tarfile.USTAR_FORMAT else 60)}long"]
    with tarfile.open(path, "w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
    found = list(members(open_place(tmp_path), "a.tar", 0, path.stat().st_size))
    assert [member.name for member in found] == names
    raw = path.read_bytes()
    assert [raw[m.offset : m.offset + m.size].decode() for m in found] == names


def test_webdataset_without_a_label_is_named(tmp_path: Path) -> None:
    """A picture whose key has no .cls, and a label that is not one."""
    pack(tmp_path / "0.tar", {"a.jpg": b"1", "a.cls": b"0", "b.jpg": b"2"})
    with pytest.raises(DataError, match=r"'b.jpg' in '0.tar' has no label"):
        read_source(open_place(tmp_path), SourceRules())
    pack(tmp_path / "0.tar", {"a.jpg": b"1", "a.cls": b"cat"})
    with pytest.raises(DataError, match="not a label in digits"):
        read_source(open_place(tmp_path), SourceRules())


def parquet(folders: Path, root: Path) -> Path:
    """As the Hugging Face hub has it: row groups of five, class names in the schema."""
    rows = [
        {"image": {"bytes": data, "path": name}, "label": label}
        for label, wnid in enumerate(IDS)
        for name, data in of_class(folders, wnid).items()
    ]
    names = {"info": {"features": {"label": {"names": [f"words of {wnid}" for wnid in IDS]}}}}
    for split, part in (("train", rows), ("validation", rows[:2])):
        table = pa.Table.from_pylist(part)
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        (root / "data").mkdir(exist_ok=True)
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet", row_group_size=5)
    return root


def test_parquet_gives_the_same_pictures(folders: Path, tmp_path: Path) -> None:
    """Every image once, with its label and class names; statistics as from the folders."""
    (tmp_path / "s").mkdir()
    root = parquet(folders, tmp_path / "s")
    assert recognise(open_place(root)) == "parquet"
    out = []
    for source, name in ((root, "a"), (folders, "b")):
        job = Job(source=str(source), dataset=str(tmp_path / name), shard_samples=5)
        preprocess(job, in_process)
        rows = pq.read_table(tmp_path / name / "index.parquet").to_pylist()
        train = sorted((r["source_sha256"], r["label"]) for r in rows if r["split"] == "train")
        out.append((train, (tmp_path / name / "stats.npz").read_bytes()))
    assert out[0] == out[1]
    manifest = json.loads((tmp_path / "a/dataset.json").read_text())
    assert [entry["words"] for entry in manifest["classes"]] == [f"words of {w}" for w in IDS]
    assert manifest["splits"]["val"]["samples"] == 2


def test_parquet_that_is_not_one_is_named(tmp_path: Path) -> None:
    """Harmed, without the columns, without a label."""
    (tmp_path / "train.parquet").write_bytes(b"PAR1" + bytes(99))
    with pytest.raises(DataError, match=r"'train.parquet' .* not readable Parquet"):
        read_source(open_place(tmp_path), SourceRules())
    pq.write_table(pa.table({"picture": [b"1"], "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no 'image' with bytes"):
        read_source(open_place(tmp_path), SourceRules())
    rows = [{"image": {"bytes": b"1"}, "label": None}, {"image": {"bytes": b"1"}, "label": 0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="row 0 of group 0 of 'train.parquet' has no label"):
        read_source(open_place(tmp_path), SourceRules())


def test_windows_of_groups_hold_together() -> None:
    """Every image once; a window's images are neighbours, mixed, and windows are in no order."""
    columns = Columns()
    for group in range(10):
        columns.open(f"{group}/")
        for row in range(7):
            columns.add(str(row), 0, 0, row)
    listing = columns.listing("s", [ClassName(label=0, wnid="a", words="a")], window=2)
    order = order_of(listing, 0, "train")
    assert sorted(order.tolist()) == list(range(70))
    windows = listing.groups[order].reshape(5, 14)
    assert all(len(set(window)) == 2 for window in windows.tolist())
    assert any((np.diff(window) != 0).sum() > 1 for window in windows)
    assert windows.reshape(-1).tolist() != sorted(windows.reshape(-1).tolist())
