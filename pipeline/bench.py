"""How fast preprocessing is, against the codec alone: `septet bench preprocess`.

The limit is what no converter with this codec can pass: decode a photograph, encode 256x256 pixels.
Both sides take turns on the same pictures in the same process, so that a busy machine slows both;
the figure is the median ratio over the rounds. Two workers are two processes that make a shard each
at the same time, against the first of them alone.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infra.storage import open_place
from pipeline.folders import class_folders
from pipeline.image import decode_rgb, encode, square
from pipeline.plan import Plan
from pipeline.rule import ImageRule
from pipeline.shard import make_shard

WIDTH, HEIGHT = 500, 375  # ImageNet's commonest size; its files have about 110 KB


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Images a second of one core, medians over `rounds` of `images` pictures each."""

    images: int
    rounds: int
    mean_file_bytes: int
    codec_images_per_s: float  # decode and encode alone
    septet_images_per_s: float  # with everything: a whole shard and its record on disk
    ratio: float  # median of the rounds' ratios
    lowest_ratio: float
    highest_ratio: float
    two_workers: float  # images a second of two at once, over one alone; median, by the clock
    lowest_two_workers: float
    highest_two_workers: float


def bench_preprocess(images: int = 512, rounds: int = 5) -> Speed:
    """One worker's speed against the codec's, on photographs drawn by code."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="septet-bench-") as folder:
        root = Path(folder)
        draw_photographs(root / "source" / "class", images)
        files = sorted((root / "source" / "class").iterdir())
        raw = [path.read_bytes() for path in files]
        rule = ImageRule()
        small = [square(data).pixels for data in raw]
        make = _maker(root, rule, "dataset")

        def codec() -> None:
            for data, pixels in zip(raw, small, strict=True):
                decode_rgb(data)
                encode(pixels, rule)

        codec()  # caches and allocators warm
        make()
        pairs = [(_seconds(codec), _seconds(make)) for _ in range(rounds)]
        gains = _two_workers(root, rounds)
    ratios = [limit / ours for limit, ours in pairs]
    return Speed(
        images=images,
        rounds=rounds,
        mean_file_bytes=sum(len(data) for data in raw) // images,
        codec_images_per_s=round(images / statistics.median(limit for limit, _ in pairs), 1),
        septet_images_per_s=round(images / statistics.median(ours for _, ours in pairs), 1),
        ratio=round(statistics.median(ratios), 3),
        lowest_ratio=round(min(ratios), 3),
        highest_ratio=round(max(ratios), 3),
        two_workers=round(statistics.median(gains), 3),
        lowest_two_workers=round(min(gains), 3),
        highest_two_workers=round(max(gains), 3),
    )


def draw_photographs(folder: Path, count: int) -> None:
    """`count` JPEGs of 500x375, about 110 KB each: blobs, edges and grain, seeded."""
    folder.mkdir(parents=True)
    for number in range(count):
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
        grain = draw.normal(0, 22, (HEIGHT, WIDTH, 1))  # chosen for the size of the file
        picture = Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        (folder / f"{number:06d}.JPEG").write_bytes(file.getvalue())


def _maker(root: Path, rule: ImageRule, dataset: str) -> Callable[[], None]:
    """A function that makes the one shard of all photographs, anew each time."""
    listing = class_folders(open_place(root / "source"))["train"]
    plan = Plan(splits={"train": listing}, rule=rule, seed=0, shard_samples=len(listing))
    (task,) = plan.tasks(str(root / dataset), "bench")

    def make() -> None:
        make_shard(task)

    return make


def _two_workers(root: Path, rounds: int) -> list[float]:
    """How many times as much two processes make at once as one alone, round by round."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:

        def wall(workers: int) -> float:
            started = time.perf_counter()
            list(pool.map(_make, [root] * workers, [f"w{n}" for n in range(workers)]))
            return time.perf_counter() - started

        wall(2)  # both have started, and loaded torch
        return [2 * wall(1) / wall(2) for _ in range(rounds)]


def _make(root: Path, dataset: str) -> None:
    _maker(root, ImageRule(), dataset)()


def _seconds(act: Callable[[], None]) -> float:
    started = time.process_time()  # of this process alone: what others do is not counted
    act()
    return time.process_time() - started
