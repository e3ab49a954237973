"""The machine's cache of remote shards: right bytes only, fetched once, within its cap."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import TRAIN_SHARDS, tiny_recipe, write_dataset

from infra.errors import DamageError
from infra.manifest import DatasetManifest
from infra.storage import LocalPlace, open_place
from train.job import Job
from train.local import train_here
from train.order import Order
from train.samples import Samples
from train.shards import Shards


class FarPlace:
    """A folder that is not local to the reader's eyes, and counts what is fetched from it."""

    def __init__(self, root: Path) -> None:
        self.near, self.fetched = LocalPlace(root), list[str]()

    def download(self, name: str, target: Path) -> None:
        """Counts."""
        self.fetched.append(name)
        self.near.download(name, target)

    def __getattr__(self, name: str) -> object:
        return getattr(self.near, name)


@pytest.fixture
def far(tmp_path: Path) -> FarPlace:
    """A dataset far away."""
    return FarPlace(write_dataset(tmp_path / "data"))


def shards(far: FarPlace, folder: Path, cap_bytes: int = 1 << 30) -> Shards:
    """The train split's shards through a cache."""
    manifest, _ = DatasetManifest.read(far)  # type: ignore[arg-type]
    split = manifest.splits["train"].shards
    return Shards(far, split, folder=folder, cap_bytes=cap_bytes)  # type: ignore[arg-type]


def test_far_samples_are_near_samples(far: FarPlace, tmp_path: Path) -> None:
    """The same pictures; each shard is fetched once, by all splits' readers and threads."""
    near = Samples(open_place(tmp_path / "data"), "train")
    ids = np.random.default_rng(1).permutation(len(near))
    readers = [
        Samples(far, "train", cache_bytes=0, shard_folder=tmp_path / "cache")  # type: ignore[arg-type]
        for _ in range(2)
    ]
    for reader in readers:
        reader.shards.expect([2, 0, 1])
        assert torch.equal(reader.fetch(ids)[0], near.fetch(ids)[0])
        reader.shards.close()
    assert sorted(far.fetched) == [f"train/{number:06}.tar" for number in range(3)]


def test_a_cached_shard_gone_bad_is_fetched_again(far: FarPlace, tmp_path: Path) -> None:
    """A flipped bit on the cache's disk costs one more fetch, and is never used."""
    near = Samples(open_place(tmp_path / "data"), "train").fetch(range(sum(TRAIN_SHARDS)))[0]
    samples = Samples(far, "train", cache_bytes=0, shard_folder=tmp_path / "cache")  # type: ignore[arg-type]
    samples.fetch(range(len(samples)))
    for path in (tmp_path / "cache").glob("*.tar"):
        data = bytearray(path.read_bytes())
        data[1500] ^= 4
        path.write_bytes(data)
    assert torch.equal(samples.fetch(range(len(samples)))[0], near)
    assert len(far.fetched) == 6


def test_a_damaged_remote_shard_is_named(far: FarPlace, tmp_path: Path) -> None:
    """Fetched twice, never published in the cache."""
    victim = tmp_path / "data/train/000001.tar"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(DamageError, match=r"'train/000001.tar' in .* is damaged"):
        shards(far, tmp_path / "cache").read(1, 0, 10)
    assert len(far.fetched) == 2 and not list((tmp_path / "cache").iterdir())


def test_the_cap_holds_and_the_longest_unused_goes(far: FarPlace, tmp_path: Path) -> None:
    """With room for two of the three."""
    sizes = [(tmp_path / f"data/train/{number:06}.tar").stat().st_size for number in range(3)]
    cached = shards(far, tmp_path / "cache", cap_bytes=sum(sizes) - 1)
    for number in (0, 1, 0, 2, 0):
        cached.read(number, 0, 512)
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) < sum(sizes)
    assert far.fetched == [f"train/{number:06}.tar" for number in (0, 1, 2)]


def test_many_readers_with_no_room_still_read(far: FarPlace, tmp_path: Path) -> None:
    """Evicting each other's shards costs fetches, not bytes."""
    near = [(tmp_path / f"data/train/{number:06}.tar").read_bytes() for number in range(3)]
    wrong: list[int] = []

    def read(start: int) -> None:
        cached = shards(far, tmp_path / "cache", cap_bytes=max(map(len, near)))
        for turn in range(12):
            number = (start + turn) % 3
            if cached.read(number, 700, 900) != near[number][700:1600]:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_shards_of_a_step_are_named_ahead() -> None:
    """Each update's samples lie in the shards that were expected with it, two windows at most."""
    order = Order(shard_sizes=(5, 9, 3, 8, 6, 4, 7), batch=4, seed=3, window=2)
    starts = np.cumsum((0, *order.shard_sizes))
    for step in range(order.steps, 2 * order.steps):
        ids = next(order.batches(step))
        expected = order.shards_near(step)
        assert len(expected) <= 4
        assert set(np.searchsorted(starts, ids, side="right") - 1) <= set(expected.tolist())


@pytest.mark.s3
def test_dataset_and_run_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    """Everything on S3 gives the bits of everything on disk; the run is left alone when done."""
    data = write_dataset(tmp_path / "data")
    there = open_place(f"{bucket}/data")
    for path in data.rglob("*.*"):
        there.write(path.relative_to(data).as_posix(), path.read_bytes())
    recipe = tiny_recipe(schedule__epochs=2)
    near = train_here(Job(dataset=str(data), run=str(tmp_path / "run"), recipe=recipe))
    job = Job(dataset=f"{bucket}/data", run=f"{bucket}/run", recipe=recipe, checkpoint_s=0.0)
    assert train_here(job).weights_sha256 == near.weights_sha256
    assert train_here(job).weights_sha256 == near.weights_sha256
    assert {"member.json", "metrics.jsonl"} < set(open_place(f"{bucket}/run").names())
