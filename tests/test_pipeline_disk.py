"""Disks that fill up and sources that change while they are read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from photos import class_folders, jpeg, tree

from infra.errors import StorageError
from infra.manifest import sha256
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess
from pipeline.verify import verify

SPACE = 8 << 20  # bytes of the small disk, some four times the dataset
PAGE = 4096  # a tmpfs gives out space by the page


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six images: three shards of four."""
    return class_folders(tmp_path_factory.mktemp("source") / "s", classes=2, images=6)


def job(source: Path, dataset: Path) -> Job:
    """The one job of these tests; a bad image in twelve is allowed."""
    return Job(source=str(source), dataset=str(dataset), shard_samples=4, max_bad=0.1)


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset made with room and in peace."""
    place = tmp_path_factory.mktemp("undisturbed")
    preprocess(job(source, place), in_process)
    return place


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SPACE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_full_disk_is_one_sentence_and_space_is_the_cure(
    source: Path, undisturbed: Path, small_disk: Path, share: float
) -> None:
    """Room for a share of the dataset: exit code 1, no manifest, nothing left aside."""
    wanted = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    place = small_disk / "d"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(b"x" * (free - int(wanted * share) // PAGE * PAGE))
    with pytest.raises(StorageError, match=r"cannot write '.*': No space left on device\.$") as no:
        preprocess(job(source, place), in_process)
    assert no.value.exit_code == 1
    assert not (place / "dataset.json").exists()
    assert not list(small_disk.rglob("*.tmp"))
    (small_disk / "filler").unlink()
    preprocess(job(source, place), in_process)
    assert tree(place) == tree(undisturbed)


def test_no_room_for_the_index_is_mended_too(
    source: Path, undisturbed: Path, small_disk: Path
) -> None:
    """The shards are there; index, statistics and manifest find a full disk, then a free one."""
    place = small_disk / "d"
    shutil.copytree(undisturbed, place)
    for name in ("index.parquet", "stats.npz", "dataset.json"):
        (place / name).unlink()
    with (small_disk / "filler").open("wb") as filler:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write(b"x" * free)
    with pytest.raises(StorageError, match="No space left"):
        preprocess(job(source, place), in_process)
    (small_disk / "filler").unlink()
    assert preprocess(job(source, place), in_process).made_images == 0
    assert tree(place) == tree(undisturbed)


def test_no_room_for_temporary_files_is_named(
    source: Path, undisturbed: Path, small_disk: Path, tmp_path: Path
) -> None:
    """The index is put together in TMPDIR: a full one is a sentence that says so."""
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "filler").write_bytes(b"x" * free)
    before, tempfile.tempdir = tempfile.tempdir, str(small_disk)
    try:
        with pytest.raises(StorageError, match=r"cannot write the index .* let TMPDIR name"):
            preprocess(job(source, tmp_path / "d"), in_process)
    finally:
        tempfile.tempdir = before
    assert not (tmp_path / "d" / "dataset.json").exists()
    preprocess(job(source, tmp_path / "d"), in_process)
    assert tree(tmp_path / "d") == tree(undisturbed)


def garbage(path: Path) -> None:
    """Other bytes, as many."""
    path.write_bytes(b"?" * path.stat().st_size)


def another(path: Path) -> None:
    """Another photograph, in one step."""
    aside = path.with_name(".aside")
    aside.write_bytes(jpeg(999, 200, 150))
    aside.replace(path)


def folder(path: Path) -> None:
    """A folder of that name."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change,status",
    [
        (Path.unlink, "missing"),
        (garbage, "not_an_image"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "corrupt"),
        (another, "ok"),
        (folder, None),
    ],
    ids=["deleted", "garbage", "emptied", "cut", "replaced", "folder"],
)
def test_a_file_that_changes_after_it_was_listed(
    source: Path,
    undisturbed: Path,
    tmp_path: Path,
    change: Callable[[Path], object],
    status: str | None,
) -> None:
    """A counted reject, the new picture with its own digest, or an error; the rest as ever."""
    shutil.copytree(source, tmp_path / "s")
    changed = tmp_path / "s" / "n01" / "photo.3.JPEG"

    def late(tasks):  # type: ignore[no-untyped-def]
        for task in tasks:
            if changed.relative_to(tmp_path / "s").as_posix() in [i.path for i in task.items]:
                change(changed)
            yield from in_process([task])

    if status is None:
        with pytest.raises(StorageError, match="Is a directory"):
            preprocess(job(tmp_path / "s", tmp_path / "d"), late)
        assert not (tmp_path / "d" / "dataset.json").exists()
        return
    summary = preprocess(job(tmp_path / "s", tmp_path / "d"), late)
    assert summary.rejects == ({} if status == "ok" else {status: 1})
    assert verify(open_place(tmp_path / "d"), deep=True).problems == ()
    rows, before = by_source(tmp_path / "d"), by_source(undisturbed)
    row = rows.pop("n01/photo.3.JPEG")
    del before["n01/photo.3.JPEG"]
    assert row["status"] == status
    assert row["source_sha256"] == (sha256(changed.read_bytes()) if changed.exists() else None)
    same = ("key", "label", "source_sha256", "crc32", "size", "status")
    assert [[kept[name] for name in same] for kept in rows.values()] == [
        [kept[name] for name in same] for kept in before.values()
    ]


def by_source(dataset: Path) -> dict[str, dict[str, object]]:
    """The rows of the index."""
    rows = pq.read_table(dataset / "index.parquet").to_pylist()
    return {row["source"]: row for row in sorted(rows, key=lambda row: str(row["source"]))}
