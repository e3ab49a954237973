"""The whole pipeline in this process: what it writes, what a re-run does, what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from photos import class_folders, tree
from PIL import Image

from infra.errors import ConfigError, DataError, RunError
from infra.manifest import DatasetManifest, sha256
from infra.storage import open_place
from pipeline.commits import Made
from pipeline.image import square
from pipeline.moments import stats_npz
from pipeline.run import Job, Summary, in_process, preprocess
from pipeline.sums import Sums


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and val of three classes, 24 and 9 images, among them two bad ones and a hidden one."""
    root = tmp_path_factory.mktemp("source")
    class_folders(root / "train", images=8)
    class_folders(root / "val", images=3, first_seed=100)
    (root / "train" / "n01" / "photo.3.JPEG").write_bytes(b"")
    (root / "train" / "n02" / "readme.txt").write_text("not a picture")
    (root / "train" / "n02" / ".DS_Store").write_text("no part of it")
    (root / "train" / "words.txt").write_text("n00\tfirst, one\nn02\tthird\n")
    return root


def job(source: Path, dataset: Path, **options: object) -> Job:
    """Shards of seven images; two bad ones are no failure."""
    defaults = {"shard_samples": 7, "max_bad": 0.2, "val": str(source / "val")}
    return Job(source=str(source / "train"), dataset=str(dataset), **{**defaults, **options})


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset."""
    place = tmp_path_factory.mktemp("dataset") / "d"
    preprocess(job(source, place), in_process)
    return place


def test_every_image_is_kept_or_rejected_with_a_reason(source: Path, dataset: Path) -> None:
    """The index has a row an image: 33 kept and rejected, none twice, in the promised order."""
    rows = pq.read_table(dataset / "index.parquet").to_pylist()
    listed = [
        path.relative_to(source / split).as_posix()
        for split in ("train", "val")
        for path in (source / split).rglob("*/*")
        if not path.name.startswith(".")
    ]
    assert sorted(row["source"] for row in rows) == sorted(listed)
    assert len({row["key"] for row in rows}) == len(rows) == 34
    bad = {row["source"]: row["status"] for row in rows if row["status"] != "ok"}
    assert bad == {"n01/photo.3.JPEG": "empty", "n02/readme.txt": "not_an_image"}
    kept = [row for row in rows if row["status"] == "ok"]
    order = [(row["split"], row["shard"], row["offset"]) for row in kept]
    assert order == sorted(order)
    assert [row["split"] for row in rows] == sorted(row["split"] for row in rows)
    train = [row["status"] == "ok" for row in rows if row["split"] == "train"]
    assert train == sorted(train, reverse=True)


def test_index_tars_and_source_agree(source: Path, dataset: Path) -> None:
    """Each row's bytes lie where it says, have its checksum, and show its picture."""
    for row in pq.read_table(dataset / "index.parquet").to_pylist():
        raw = (source / row["split"] / row["source"]).read_bytes()
        assert row["source_sha256"] == sha256(raw)
        assert row["wnid"] == row["source"].split("/")[0] == f"n{row['label']:02d}"
        if row["status"] != "ok":
            assert row["shard"] is row["offset"] is row["crc32"] is None
            continue
        with (dataset / row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            data = file.read(row["size"])
        assert zlib.crc32(data) == row["crc32"]
        with Image.open(source / row["split"] / row["source"]) as image:
            assert image.size == (row["width"], row["height"])


def test_the_manifest_confirms_every_file(dataset: Path) -> None:
    """Shard digests and counts, index, statistics, classes with their words."""
    manifest, _ = DatasetManifest.read(open_place(dataset))
    for split in manifest.splits.values():
        for shard in split.shards:
            data = (dataset / shard.name).read_bytes()
            assert (sha256(data), len(data)) == (shard.sha256, shard.bytes)
            with tarfile.open(dataset / shard.name) as file:
                assert len(file.getnames()) == 2 * shard.samples
    assert (manifest.splits["train"].samples, manifest.splits["train"].rejects) == (23, 2)
    assert (manifest.splits["val"].samples, manifest.splits["val"].rejects) == (9, 0)
    assert manifest.index_sha256 == sha256((dataset / "index.parquet").read_bytes())
    assert manifest.stats_sha256 == sha256((dataset / "stats.npz").read_bytes())
    assert [(c.wnid, c.words) for c in manifest.classes] == [
        ("n00", "first, one"),
        ("n01", "n01"),
        ("n02", "third"),
    ]


def test_statistics_are_of_the_train_pixels_before_encoding(source: Path, dataset: Path) -> None:
    """One pass over the source, without shards, gives the same file."""
    sums = Sums()
    for path in sorted((source / "train").rglob("*.JPEG")):
        if path.stat().st_size:
            sums.add(square(path.read_bytes()).pixels)
    assert (dataset / "stats.npz").read_bytes() == stats_npz(sums.moments())


def test_stock_webdataset_reads_it(dataset: Path) -> None:
    """Keys, labels and pictures, in a process of its own: it leaves its files open."""
    script = """
import glob, sys, webdataset
shards = sorted(glob.glob(sys.argv[1] + "/train/*.tar"))
for image, label in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple(
    "jpg", "cls"
):
    print(image.shape, label)
"""
    command = [sys.executable, "-c", script, str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 23
    assert {line[:-1] for line in lines} == {"(256, 256, 3) "}
    assert {line[-1] for line in lines} == {"0", "1", "2"}


def test_a_rerun_changes_nothing(source: Path, dataset: Path) -> None:
    """Not even a time of change; and says so."""
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    summary = preprocess(job(source, dataset), in_process)
    assert summary.made_images == 0
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    manifest = (dataset / "dataset.json").read_bytes()
    assert summary.sha256 == sha256(manifest)
    assert summary.rejects == {"empty": 1, "not_an_image": 1}


@pytest.mark.parametrize(
    "name", ["train/000001.tar", "_commits/val/000000.json", "index.parquet", "dataset.json"]
)
@pytest.mark.parametrize("harm", ["removed", "cut short"])
def test_a_rerun_mends_what_is_missing(
    source: Path, dataset: Path, tmp_path: Path, name: str, harm: str
) -> None:
    """A lost or truncated file is made again, the rest untouched, the bytes as before."""
    copy = tmp_path / "d"
    shutil.copytree(dataset, copy)
    if harm == "removed":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes()[:-20])
    summary = preprocess(job(source, copy), in_process)
    assert tree(copy) == tree(dataset)
    assert summary.made_images == (7 if "0000" in name else 0)


def test_a_run_that_stops_anywhere_is_continued(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    """Stopped after every shard in turn, then run to the end: the bytes of the undisturbed run."""

    class Stop(Exception):
        pass

    for stop in range(1, 5):
        place = tmp_path / str(stop)

        def until(tasks, stop=stop):  # type: ignore[no-untyped-def]
            for done, outcome in enumerate(in_process(tasks)):
                if done == stop:
                    raise Stop
                yield outcome

        with pytest.raises(Stop):
            preprocess(job(source, place), until)
        assert not (place / "dataset.json").exists()
        summary: Summary = preprocess(job(source, place), in_process)
        assert summary.made_images < 34
        assert tree(place) == tree(dataset)


def test_the_order_in_which_shards_finish_does_not_show(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    """Last first."""
    preprocess(job(source, tmp_path), lambda tasks: in_process(reversed(list(tasks))))
    assert tree(tmp_path) == tree(dataset)


@pytest.mark.parametrize(
    "change,named",
    [
        ({"quality": 80}, "image rule"),
        ({"seed": 3}, "seed"),
        ({"shard_samples": 8}, "shard samples"),
        ({"val": None}, "val images"),
    ],
)
def test_another_plan_into_the_same_dataset_is_refused(
    source: Path, dataset: Path, change: dict[str, object], named: str
) -> None:
    """And what differs is named; nothing is touched."""
    before = tree(dataset)
    with pytest.raises(DataError, match=named):
        preprocess(job(source, dataset, **change), in_process)
    assert tree(dataset) == before


def test_a_place_that_holds_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    """Nobody's folder is filled up by mistake; nor the source's own."""
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty"):
        preprocess(job(source, tmp_path), in_process)
    with pytest.raises(DataError, match="inside its source"):
        preprocess(job(source, source / "train" / "out"), in_process)


def test_sources_that_cannot_work_are_named(source: Path, tmp_path: Path) -> None:
    """No folders, an empty class, other classes in val, no such place."""
    with pytest.raises(DataError, match="no class folders"):
        preprocess(Job(source=str(tmp_path / "nowhere"), dataset=str(tmp_path / "d")), in_process)
    class_folders(tmp_path / "some", classes=2, images=1)
    with pytest.raises(DataError, match="lacks n02"):
        preprocess(job(source, tmp_path / "d", val=str(tmp_path / "some")), in_process)
    (tmp_path / "some" / "n07").mkdir()
    with pytest.raises(DataError, match="class 'n07' .* no images"):
        preprocess(Job(source=str(tmp_path / "some"), dataset=str(tmp_path / "d")), in_process)
    assert not (tmp_path / "d").exists()


def test_too_many_bad_images_end_the_run(source: Path, tmp_path: Path) -> None:
    """By share, naming a picture and the option; or at the first; and a re-run may allow more."""
    with pytest.raises(RunError, match=r"2 of 34 images are bad .*--max-bad 0\.05"):
        preprocess(job(source, tmp_path / "a", max_bad=0.05), in_process)
    with pytest.raises(RunError, match=r"(photo\.3|readme).*--on-bad skip"):
        preprocess(job(source, tmp_path / "a", on_bad="fail"), in_process)
    assert not (tmp_path / "a" / "dataset.json").exists()
    assert preprocess(job(source, tmp_path / "a"), in_process).splits["train"]["samples"] == 23


def test_without_one_good_image_there_is_no_dataset(tmp_path: Path) -> None:
    """Statistics of nothing do not exist."""
    (tmp_path / "s" / "a").mkdir(parents=True)
    (tmp_path / "s" / "a" / "x.jpg").write_bytes(b"?")
    with pytest.raises(RunError, match="not one image of the train split"):
        preprocess(
            Job(source=str(tmp_path / "s"), dataset=str(tmp_path / "d"), max_bad=1), in_process
        )


def test_an_image_that_vanishes_is_a_reject(source: Path, tmp_path: Path) -> None:
    """Listed, then deleted before its shard is made."""
    shutil.copytree(source / "train", tmp_path / "s")

    def late(tasks):  # type: ignore[no-untyped-def]
        tasks = list(tasks)
        (tmp_path / "s" / "n00" / "photo.0.JPEG").unlink(missing_ok=True)
        return in_process(tasks)

    summary = preprocess(
        Job(source=str(tmp_path / "s"), dataset=str(tmp_path / "d"), max_bad=0.2), late
    )
    assert summary.rejects["missing"] == 1


def test_a_task_that_dies_is_made_again_with_care(
    source: Path, dataset: Path, tmp_path: Path
) -> None:
    """The second time each picture is decoded in a child; the bytes are the same."""
    from infra.cluster import TaskDied

    care: list[bool] = []

    def dies_once(tasks):  # type: ignore[no-untyped-def]
        for task in tasks:
            care.append(task.careful)
            if task.name == "val/000001.tar" and not task.careful:
                yield task, TaskDied("worker died")
            else:
                yield from in_process([task])

    preprocess(job(source, tmp_path), dies_once)
    assert care.count(True) == 1
    assert tree(tmp_path) == tree(dataset)


def test_a_task_that_fails_names_its_shard(source: Path, tmp_path: Path) -> None:
    """Nothing is published, and our bugs are not hidden."""
    with pytest.raises(RunError, match="shard train/000000.tar"):
        preprocess(job(source, tmp_path), lambda tasks: ((t, ValueError("?")) for t in tasks))
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize(
    "options", [{"quality": 0}, {"shard_samples": 0}, {"shard_samples": 70_000}, {"max_bad": 1.5}]
)
def test_options_out_of_range(options: dict[str, object], source: Path, tmp_path: Path) -> None:
    """Named with the range."""
    with pytest.raises(ConfigError, match=r"--\S+ is \S+; it must be from"):
        job(source, tmp_path, **options)


def test_plan_record_is_readable(dataset: Path) -> None:
    """Small JSON that a person understands, decoder versions included."""
    record = json.loads((dataset / "_commits" / "plan.json").read_text())
    assert record["image rule"]["jpeg_quality"] == 90
    assert set(record["decoder versions"]) == {"torch", "torchvision", "pillow", "libjpeg"}


def test_a_summary_of_a_shard_is_small() -> None:
    """What travels from a task to the driver has no rows and no pictures."""
    assert set(Made.__slots__) == {"shard", "images", "rejects", "first_reject"}


def test_images_are_spread_over_shards(dataset: Path) -> None:
    """A seeded permutation before sharding: the first shard holds more than one class."""
    rows = pq.read_table(dataset / "index.parquet").to_pylist()
    labels = [row["label"] for row in rows if row["shard"] == "train/000000.tar"]
    assert len(np.unique(labels)) > 1
