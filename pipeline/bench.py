"""How fast preprocessing is, against the codec alone: `septet bench preprocess`.

The limit is what no converter with this codec can pass: decode a photograph, encode 256x256 pixels.
Beside it a plain converter, torchvision and webdataset in ten lines, without statistics, digests or
an index: what resizing and packing alone leave of the limit on this machine. All take turns on the
same pictures in the same process, so that a busy machine slows all; a figure is the median ratio
over the rounds. Two workers are two processes that make a shard each at the same time, against the
first of them alone.
"""

from __future__ import annotations

import functools
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
from pipeline.rule import SIDE, ImageRule
from pipeline.shard import make_shard

WIDTH, HEIGHT = 500, 375  # ImageNet's commonest size; its files have about 110 KB


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Images a second of one core, medians over `rounds` of `images` pictures each."""

    images: int
    rounds: int
    mean_file_bytes: int
    codec_images_per_s: float  # decode and encode alone
    plain_images_per_s: float  # a plain converter: no statistics, no digests, no index
    septet_images_per_s: float  # with everything: a whole shard and its record on disk
    ratio: float  # to the codec, median of the rounds' ratios
    lowest_ratio: float
    highest_ratio: float
    ratio_to_plain: float
    lowest_ratio_to_plain: float
    highest_ratio_to_plain: float
    two_workers: float  # images a second of two at once, over one alone; median, by the clock
    lowest_two_workers: float
    highest_two_workers: float


def bench_preprocess(images: int = 512, rounds: int = 5) -> Speed:
    """One worker against the codec alone and a plain converter, on photographs drawn by code."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="septet-bench-") as folder:
        root = Path(folder)
        draw_photographs(root / "source" / "class", images)
        files = sorted((root / "source" / "class").iterdir())
        raw = [path.read_bytes() for path in files]
        turns = (
            _codec(raw),
            functools.partial(convert_plainly, files, root / "plain.tar"),
            _maker(root, ImageRule(), "dataset"),
        )
        for act in turns:
            act()  # caches and allocators warm
        times = [[_seconds(act) for act in turns] for _ in range(rounds)]
        gains = _two_workers(root, rounds)
    rates = [images / statistics.median(column) for column in zip(*times, strict=True)]
    to_codec = [codec / ours for codec, _, ours in times]
    to_plain = [plain / ours for _, plain, ours in times]
    return Speed(
        images=images,
        rounds=rounds,
        mean_file_bytes=sum(len(data) for data in raw) // images,
        codec_images_per_s=round(rates[0], 1),
        plain_images_per_s=round(rates[1], 1),
        septet_images_per_s=round(rates[2], 1),
        ratio=round(statistics.median(to_codec), 3),
        lowest_ratio=round(min(to_codec), 3),
        highest_ratio=round(max(to_codec), 3),
        ratio_to_plain=round(statistics.median(to_plain), 3),
        lowest_ratio_to_plain=round(min(to_plain), 3),
        highest_ratio_to_plain=round(max(to_plain), 3),
        two_workers=round(statistics.median(gains), 3),
        lowest_two_workers=round(min(gains), 3),
        highest_two_workers=round(max(gains), 3),
    )


def _codec(raw: list[bytes]) -> Callable[[], None]:
    """Decodes every photograph, and encodes 256x256 pixels as often."""
    rule = ImageRule()
    small = [square(data).pixels for data in raw]

    def act() -> None:
        for data, pixels in zip(raw, small, strict=True):
            decode_rgb(data)
            encode(pixels, rule)

    return act


def convert_plainly(files: list[Path], target: Path) -> None:
    """The converter one writes in ten lines: torchvision's transforms, webdataset's writer."""
    import webdataset
    from torchvision.transforms.v2 import functional

    with webdataset.TarWriter(str(target), encoder=False) as shard:
        for number, path in enumerate(files):
            pixels = decode_rgb(path.read_bytes()).permute(2, 0, 1)
            resized = functional.resize(pixels, [SIDE], antialias=True)
            square = functional.center_crop(resized, [SIDE, SIDE]).permute(1, 2, 0)
            jpeg = encode(square.numpy(), ImageRule())
            shard.write({"__key__": f"{number:08d}", "jpg": jpeg, "cls": b"0"})


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
