"""The benchmark of preprocessing compares like with like, and reports what it measured."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pipeline.bench import bench_preprocess, convert_plainly, draw_photographs
from pipeline.image import encode, square
from pipeline.rule import ImageRule


def test_the_plain_converter_makes_our_pictures(tmp_path: Path) -> None:
    """To the byte: what it lacks is statistics, digests and an index."""
    draw_photographs(tmp_path / "photos", 3)
    files = sorted((tmp_path / "photos").iterdir())
    convert_plainly(files, tmp_path / "plain.tar")
    with tarfile.open(tmp_path / "plain.tar") as shard:
        made = {member.name: shard.extractfile(member).read() for member in shard}  # type: ignore[union-attr]
    for number, path in enumerate(files):
        ours = encode(square(path.read_bytes()).pixels, ImageRule())
        assert made[f"{number:08d}.jpg"] == ours


@pytest.mark.slow
def test_figures_agree_with_each_other() -> None:
    """Rates are positive, medians lie between the extremes, the conditions are those asked for."""
    found = bench_preprocess(images=4, rounds=2)
    assert (found.images, found.rounds) == (4, 2) and 90_000 < found.mean_file_bytes < 130_000
    assert min(found.codec_images_per_s, found.plain_images_per_s, found.septet_images_per_s) > 0
    assert found.lowest_ratio <= found.ratio <= found.highest_ratio < 1.5
    assert found.lowest_two_workers <= found.two_workers <= found.highest_two_workers
