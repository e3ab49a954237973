"""What stock timm, tar, pandas and DALI's own index make of a dataset."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas
import pytest
from photos import class_folders, tree

from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess
from pipeline.verify import verify

TIMM = """
import sys, warnings
warnings.simplefilter("ignore")
from timm.data import create_dataset
data = create_dataset("wds/made", sys.argv[1], split="train", is_training=False, batch_size=1)
print(len(data))
for image, label in data:
    print(*image.size, label)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits, a reject, several shards, DALI's indexes."""
    root = tmp_path_factory.mktemp("interop")
    class_folders(root / "train", classes=3, images=8)
    class_folders(root / "val", classes=3, images=3, first_seed=100)
    (root / "train" / "n01" / "photo.2.JPEG").write_bytes(b"")
    preprocess(job(root, dali_index=True), in_process)
    return root / "d"


def job(root: Path, **options: bool) -> Job:
    """The dataset's job."""
    places = {"source": root / "train", "val": root / "val", "dataset": root / "d"}
    return Job(
        **{name: str(path) for name, path in places.items()},  # type: ignore[arg-type]
        shard_samples=10,
        max_bad=0.1,
        **options,  # type: ignore[arg-type]
    )


def test_stock_timm_reads_it(dataset: Path) -> None:
    """By name of the split alone: every sample, its label and size."""
    command = [sys.executable, "-c", TIMM, str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, *lines = done.stdout.splitlines()
    assert count == "23" and len(lines) == 23
    labels = sorted(int(line.split()[-1]) for line in lines)
    assert labels == [0] * 8 + [1] * 7 + [2] * 8
    assert {line.rsplit(" ", 1)[0] for line in lines} == {"256 256"}


def test_stock_tar_reads_it(dataset: Path) -> None:
    """`tar tf` names a picture and its label in turn."""
    done = subprocess.run(
        ["tar", "tf", str(dataset / "train" / "000001.tar")],
        capture_output=True,
        text=True,
        check=True,
    )
    names = done.stdout.splitlines()
    assert len(names) in (18, 20)  # ten images, or nine and the reject
    assert [name.rpartition(".")[2] for name in names] == ["jpg", "cls"] * (len(names) // 2)


def test_pandas_reads_the_index(dataset: Path) -> None:
    """One row a source image; the reject has its reason and no shard."""
    index = pandas.read_parquet(dataset / "index.parquet")
    assert len(index) == 24 + 9
    (bad,) = index[index.status != "ok"].itertuples()
    assert (bad.status, bad.source) == ("empty", "n01/photo.2.JPEG")
    assert pandas.isna(bad.shard) and pandas.isna(bad.offset)
    assert index[index.split == "train"].groupby("wnid").size().tolist() == [8, 8, 8]


def test_dalis_index_points_at_every_member(dataset: Path) -> None:
    """Against the tar's own headers: extension, offset, size and name of each, in their order."""
    shards = sorted(dataset.rglob("*.tar"))
    assert len(shards) == 4
    for shard in shards:
        head, *lines = shard.with_suffix(".idx").read_text().splitlines()
        with tarfile.open(shard) as file:
            members = file.getmembers()
        words = [
            f"{member.name.rpartition('.')[2]} {member.offset_data} {member.size} {member.name}"
            for member in members
        ]
        assert head == f"v1.2 {len(members) // 2}"
        assert lines == [" ".join(words[at : at + 2]) for at in range(0, len(words), 2)]


def test_they_are_made_on_request_and_belong(dataset: Path, tmp_path: Path) -> None:
    """Without the option there are none, a re-run with it adds them; `verify` knows them."""
    whole = tree(dataset)
    (tmp_path / "train").symlink_to(dataset.parent / "train")
    (tmp_path / "val").symlink_to(dataset.parent / "val")
    preprocess(job(tmp_path), in_process)
    plain = {name: digest for name, digest in whole.items() if not name.endswith(".idx")}
    assert tree(tmp_path / "d") == plain
    preprocess(job(tmp_path, dali_index=True), in_process)
    assert tree(tmp_path / "d") == whole
    assert verify(open_place(tmp_path / "d"), deep=True).problems == ()


def test_harm_to_them_is_named(dataset: Path, tmp_path: Path) -> None:
    """One that is gone by every check, one that points elsewhere by the deep one."""
    shutil.copytree(dataset, tmp_path / "d")
    (tmp_path / "d/train/000001.idx").unlink()
    other = tmp_path / "d/train/000002.idx"
    other.write_text(other.read_text().replace(" 512 ", " 513 "))
    place = open_place(tmp_path / "d")
    assert verify(place, deep=False).problems == ("train/000001.idx: missing",)
    assert verify(place, deep=True).problems == (
        "train/000001.idx: missing",
        "train/000002.idx: not what the index says",
    )
