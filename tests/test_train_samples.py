"""Reading samples: the right pictures under the right labels, and no harmed byte unnoticed."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import TRAIN_SHARDS, write_dataset
from PIL import Image

from infra.errors import DamageError, DataError
from infra.storage import open_place
from train.samples import PICTURE_BYTES, Samples


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset, not to be changed."""
    return write_dataset(tmp_path_factory.mktemp("samples") / "data")


@pytest.fixture
def harmed(dataset: Path, tmp_path: Path) -> Path:
    """A copy to harm."""
    return Path(shutil.copytree(dataset, tmp_path / "harmed"))


def test_pictures_labels_and_keys_are_those_of_the_tars(dataset: Path) -> None:
    """Sample number n is the n-th picture of the shards, as tarfile reads them."""
    expected = []
    for shard in sorted((dataset / "train").glob("*.tar")):
        with tarfile.open(shard) as tar:
            content = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
        keys = [name.removesuffix(".jpg") for name in content if name.endswith(".jpg")]
        expected += [(key, content[f"{key}.jpg"], int(content[f"{key}.cls"])) for key in keys]
    samples = Samples(open_place(dataset), "train")
    assert len(samples) == len(expected) == sum(TRAIN_SHARDS)
    assert samples.shard_sizes == list(TRAIN_SHARDS) and samples.num_classes == 3
    order = np.random.default_rng(0).permutation(len(samples))
    images, labels = samples.fetch(order)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    for image, label, number in zip(images, labels, order, strict=True):
        key, jpeg, right = expected[number]
        assert samples.keys([number]) == [key] and label == right == samples.labels[number]
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)))).permute(2, 0, 1)
        # Pillow's libjpeg and torchvision's may round a pixel differently
        assert (image.int() - pixels.int()).abs().max() <= 2


def test_the_cache_changes_nothing_but_the_time(dataset: Path) -> None:
    """With room for five pictures, all pictures are the same, the first and the second time."""
    small = Samples(open_place(dataset), "train", cache_bytes=5 * PICTURE_BYTES)
    none = Samples(open_place(dataset), "train", cache_bytes=0)
    ids = np.arange(len(small))
    for _ in range(2):
        assert torch.equal(small.fetch(ids)[0], none.fetch(ids)[0])


def test_one_flipped_bit_in_a_picture_is_found(harmed: Path) -> None:
    """The sample is named; the others stay readable."""
    samples = Samples(open_place(harmed), "train", cache_bytes=0)
    shard, offset = harmed / "train/000001.tar", int(samples._offsets[TRAIN_SHARDS[0]])
    data = bytearray(shard.read_bytes())
    data[offset + 900] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match=r"sample 'train-00009' of 'train/000001.tar'"):
        samples.fetch([TRAIN_SHARDS[0]])
    samples.fetch([0, TRAIN_SHARDS[0] + 1])


def test_a_harmed_index_is_found(harmed: Path) -> None:
    """Its digest is that of the manifest, or it is not used."""
    index = bytearray((harmed / "index.parquet").read_bytes())
    index[len(index) // 2] ^= 1
    (harmed / "index.parquet").write_bytes(index)
    with pytest.raises(DamageError, match=r"index\.parquet"):
        Samples(open_place(harmed), "train")


def test_an_index_that_disagrees_with_the_manifest_is_refused(harmed: Path) -> None:
    """Counts of the manifest's shards are those of the index."""
    manifest = json.loads((harmed / "dataset.json").read_text())
    manifest["splits"]["train"]["shards"][0]["samples"] -= 1
    (harmed / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DamageError, match="does not list the samples of split 'train'"):
        Samples(open_place(harmed), "train")


def test_what_is_not_a_dataset_is_an_input_error(tmp_path: Path, dataset: Path) -> None:
    """An empty folder, and a split that is not there."""
    with pytest.raises(DataError, match="not a complete dataset"):
        Samples(open_place(tmp_path), "train")
    with pytest.raises(DataError, match="no samples in its split 'test'"):
        Samples(open_place(dataset), "test")
