"""Datasets into, and sources out of, a real S3 server: the bytes are those of a disk."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import S3Server
from photos import class_folders, tree, tree_at

from infra.errors import StorageError
from infra.storage import open_place
from pipeline.run import Job, in_process, preprocess
from pipeline.verify import verify

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve images."""
    return class_folders(tmp_path_factory.mktemp("source") / "s", classes=2, images=12)


@pytest.fixture(scope="module")
def on_disk(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the same dataset on disk."""
    place = tmp_path_factory.mktemp("disk")
    preprocess(Job(source=str(source), dataset=str(place), shard_samples=5), in_process)
    return tree(place)


def test_into_s3_and_from_s3(source: Path, on_disk: dict[str, str], bucket: str) -> None:
    """Disk to S3, and S3 to S3; verified; a re-run makes nothing."""
    job = Job(source=str(source), dataset=f"{bucket}/a", shard_samples=5)
    preprocess(job, in_process)
    assert tree_at(f"{bucket}/a") == on_disk
    assert preprocess(job, in_process).made_images == 0
    assert verify(open_place(f"{bucket}/a"), deep=True).problems == ()
    inside = open_place(f"{bucket}/photos")
    for path in source.rglob("*.JPEG"):
        inside.write(path.relative_to(source).as_posix(), path.read_bytes())
    job = Job(source=f"{bucket}/photos", dataset=f"{bucket}/b", shard_samples=5)
    preprocess(job, in_process)
    assert tree_at(f"{bucket}/b") == on_disk


def test_a_server_killed_in_the_midst(
    source: Path, on_disk: dict[str, str], bucket: str, s3_server: S3Server
) -> None:
    """Killed for two seconds at the second shard: retried, or one clear error and a re-run."""
    job = Job(source=str(source), dataset=f"{bucket}/a", shard_samples=5)

    def meanwhile(tasks):  # type: ignore[no-untyped-def]
        for number, outcome in enumerate(in_process(tasks)):
            if number == 1:
                s3_server.stop()
                threading.Timer(2, s3_server.start).start()
            yield outcome

    try:
        preprocess(job, meanwhile)
    except StorageError:
        time.sleep(5)
        preprocess(job, in_process)
    assert tree_at(f"{bucket}/a") == on_disk


def test_without_a_server_nothing_is_half_published(
    source: Path, bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away before the last shard: an error, no manifest, no reader fooled."""
    job = Job(source=str(source), dataset=f"{bucket}/a", shard_samples=5)
    monkeypatch.setattr("infra.s3.PAUSE_S", 0.01)

    def away(tasks):  # type: ignore[no-untyped-def]
        for number, outcome in enumerate(in_process(tasks)):
            yield outcome
            if number == 3:
                s3_server.stop()

    try:
        with pytest.raises(StorageError, match="s3://"):
            preprocess(job, away)
    finally:
        s3_server.start()
    assert open_place(f"{bucket}/a").size("dataset.json") is None
