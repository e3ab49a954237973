"""Order, shards and keys; and the tar they go into."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photos import class_folders

from infra.errors import DataError
from infra.storage import open_place
from pipeline.folders import class_folders as list_folders
from pipeline.listing import Names
from pipeline.plan import Plan, permutation, shard_samples_for
from pipeline.rule import ImageRule
from pipeline.tar import Tar


@given(st.integers(0, 3000), st.integers(0, 2**40))
def test_a_permutation_is_one(count: int, seed: int) -> None:
    """Every index once."""
    assert np.array_equal(np.sort(permutation(count, seed, "train")), np.arange(count))


def test_a_permutation_mixes_and_depends_on_seed_and_split() -> None:
    """Neither sorted nor shared; and pinned, since datasets hang on it."""
    first = permutation(1000, 0, "train")
    assert np.abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1
    assert not np.array_equal(first, permutation(1000, 1, "train"))
    assert not np.array_equal(first, permutation(1000, 0, "val"))
    assert permutation(10, 0, "train").tolist() == [7, 1, 4, 0, 9, 5, 6, 2, 8, 3]


def test_every_image_is_in_one_shard_under_one_key(tmp_path: Path) -> None:
    """Nothing lost, nothing twice; keys without dots, the same for any shard size and seed."""
    listing = list_folders(open_place(class_folders(tmp_path / "a", classes=3, images=7)))["train"]
    by_key: list[dict[str, str]] = []
    for seed, size in ((0, 4), (5, 9)):
        plan = Plan(splits={"train": listing}, rule=ImageRule(), seed=seed, shard_samples=size)
        tasks = list(plan.tasks("d", "p"))
        items = [item for task in tasks for item in task.items]
        assert [len(task.items) for task in tasks[:-1]] == [size] * (len(tasks) - 1)
        assert len(tasks) == plan.num_shards("train") == len(plan.shard_names())
        assert sorted(item.path for item in items) == [listing.path(i) for i in range(21)]
        assert all(item.path.startswith(f"n{item.label:02d}/") for item in items)
        assert not any("." in item.key for item in items)
        by_key.append({item.key: item.path for item in items})
    assert by_key[0] == by_key[1] and len(by_key[0]) == 21


def test_the_default_shard_size_grows_with_the_source() -> None:
    """About sixteen shards of a small source, 1024 images a shard of a large one."""
    assert [shard_samples_for(n) for n in (1, 600, 1600, 1_281_167)] == [32, 38, 100, 1024]


def test_names_are_packed_and_come_back() -> None:
    """Any text; a name that is not UTF-8 is refused."""
    names = ["a/b.jpg", "", "ü/图.png"]
    packed = Names(names)
    assert [packed[i] for i in range(len(packed))] == names
    assert packed.digest() != Names(["a/b.jpgü", "/图.png", ""]).digest()
    with pytest.raises(DataError, match="not UTF-8"):
        packed.append("\udcff")


def test_a_tar_is_what_others_read(tmp_path: Path) -> None:
    """Python's tarfile and the system's tar; offsets point at the data; equal bytes again."""
    members = {"train-00000000.jpg": b"x" * 513, "train-00000000.cls": b"7", "empty": b""}
    whole = []
    for _ in range(2):
        tar = Tar()
        offsets = {name: tar.add(name, data) for name, data in members.items()}
        whole.append(tar.finish())
    assert whole[0] == whole[1]
    path = tmp_path / "shard.tar"
    path.write_bytes(whole[0])
    with tarfile.open(path) as file:
        for member in file:
            assert (member.mtime, member.uid, member.mode, member.type) == (0, 0, 0o644, b"0")
            assert member.offset_data == offsets[member.name]
            assert file.extractfile(member).read() == members[member.name]
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == list(members) and listed.stderr == ""
