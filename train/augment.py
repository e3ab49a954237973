"""Training images and test views out of 256x256 pictures (section 4.1).

Crops, reflections and PCA colour are drawn by (seed, epoch, sample id): batches, ranks and workers
do not show. Pixels stay on the 0-255 scale; the training set's mean is subtracted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.recipes import Recipe
from train import draws

ROW, COLUMN, FLIP, COLOUR = 11, 12, 13, 14  # what a draw is for
PICTURE_PX = 256


@dataclass(frozen=True, kw_only=True)
class ImageStatistics:
    """What preprocessing measured on the training split, on the 0-255 scale."""

    mean_image: Tensor  # (3, 256, 256) float32
    rgb_mean: Tensor  # (3,) float32
    eigenvalues: NDArray[np.float64]  # (3,) of the RGB covariance, descending
    eigenvectors: NDArray[np.float64]  # (3, 3), columns

    @staticmethod
    def read(data: bytes) -> ImageStatistics:
        """From the bytes of a dataset's or a member's stats.npz."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            mean = torch.from_numpy(np.ascontiguousarray(arrays["mean_image"].transpose(2, 0, 1)))
            return ImageStatistics(
                mean_image=mean.float(),
                rgb_mean=torch.from_numpy(arrays["rgb_mean"].astype(np.float32)),
                eigenvalues=arrays["eigenvalues"].astype(np.float64),
                eigenvectors=arrays["eigenvectors"].astype(np.float64),
            )


@dataclass(frozen=True, kw_only=True)
class SampleKeys:
    """What the draws of some images are keyed by; `sample_keys` makes those of a global batch."""

    seed: int
    epoch: int  # 0 = the first
    ids: NDArray[np.int64]  # (N,) samples: their colours are drawn by these
    crop_ids: NDArray[np.int64]  # (N,) samples whose crop and reflection they share

    def part(self, part: slice) -> SampleKeys:
        """Those of a part of the batch: a replica's images."""
        return replace(self, ids=self.ids[part], crop_ids=self.crop_ids[part])


def sample_keys(ids: NDArray[np.int64], *, seed: int, epoch: int, recipe: Recipe) -> SampleKeys:
    """The keys of a global batch of sample ids, in its order.

    Each image has a crop of its own, or, as in the 2012 source, runs of `augment.crop_run`
    consecutive images of the batch share one: that of the run's first sample.
    """
    run = recipe.augment.crop_run
    leaders = ids[np.arange(len(ids)) // run * run]
    return SampleKeys(seed=seed, epoch=epoch, ids=ids, crop_ids=leaders)


def training_batch(
    images_u8: Tensor, keys: SampleKeys, *, stats: ImageStatistics, recipe: Recipe
) -> Tensor:
    """Augmented images (N, 3, px, px) float32 from pictures (N, 3, 256, 256) uint8.

    keys: one for each picture. The result is on the pictures' device.
    """
    room = PICTURE_PX - recipe.network.crop_px
    places = max(room + recipe.augment.last_crop, 1)
    drawn = (keys.seed, keys.epoch, keys.crop_ids)
    rows, columns = (draws.below(places, what, *drawn) for what in (ROW, COLUMN))
    flips = recipe.augment.flip & (draws.bits(FLIP, *drawn) >> np.uint64(63) == 1)
    colour = np.zeros((len(keys.ids), 3))
    divisor = 1.0
    if colour_is_on(recipe, keys.epoch):
        colour = colour_shift(keys, stats, recipe)
        divisor = recipe.augment.colour_divisor
    windows = np.stack((rows, columns, flips), 1)
    out = _cut(images_u8, windows, stats, recipe, colour)
    return out if divisor == 1.0 else out.div_(divisor)


def colour_is_on(recipe: Recipe, epoch: int) -> bool:
    """Whether epoch `epoch` (0 = first) draws colours: the 2012 runs ended it before the last."""
    end = recipe.augment.colour_epochs
    return recipe.augment.colour != "none" and (end is None or epoch < end)


def colour_shift(keys: SampleKeys, stats: ImageStatistics, recipe: Recipe) -> NDArray[np.float64]:
    """What PCA colour adds to R, G and B of each image, in 0-255 levels: (N, 3).

    Section 4.1 multiplies each component by its eigenvalue, which depends on the pixel scale; the
    2012 source by the square root (`colour = "deviation"`), which does not.
    """
    augment = recipe.augment
    drawn = draws.normal(COLOUR, keys.seed, keys.epoch, keys.ids[:, None], np.arange(3))
    alpha = drawn * augment.colour_std
    level = 255.0 / augment.colour_scale  # 0-255 levels in one unit of the scale
    size = np.sqrt(stats.eigenvalues)
    if augment.colour == "eigenvalue":
        size = stats.eigenvalues / level  # (eigenvalue / level^2) units of `level` each
    shift: NDArray[np.float64] = (alpha * size) @ stats.eigenvectors.T
    return shift


def views(images_u8: Tensor, stats: ImageStatistics, recipe: Recipe, num_views: int = 1) -> Tensor:
    """Test views (N, views, 3, px, px) float32 of pictures (N, 3, 256, 256) uint8 (section 4.1).

    1 = the centre; 10 = the centre, the four corners, then the mirror images of these five.
    """
    assert num_views in (1, 10), num_views
    room = PICTURE_PX - recipe.network.crop_px
    corners = [(room // 2, room // 2), (0, 0), (0, room), (room, 0), (room, room)]
    kinds = [(*corner, flip) for flip in (0, 1) for corner in corners][:num_views]
    windows = np.tile(np.array(kinds, np.int64), (len(images_u8), 1))
    many = images_u8[:, None].expand(-1, num_views, -1, -1, -1).flatten(0, 1)
    colour = np.zeros((len(many), 3))
    out = _cut(many, windows, stats, recipe, colour)
    return out.view(-1, num_views, *out.shape[1:])


def _cut(
    images_u8: Tensor,
    windows: NDArray[np.int64],
    stats: ImageStatistics,
    recipe: Recipe,
    colour: NDArray[np.float64],
) -> Tensor:
    """The window (row, column, mirrored) of each picture, less the mean, plus the colour.

    (N, 3, px, px) float32. On a CPU a picture at a time, so that all its passes but the last stay
    in the cache: a third of the time that the whole batch at once takes (0.66 ms against 1.9 a
    picture; 64 pictures, one core).
    """
    device, px = images_u8.device, recipe.network.input_px
    out = torch.empty((len(images_u8), 3, px, px), device=device)
    at_once = 1 if device.type == "cpu" else max(len(out), 1)
    mean, shift = _mean(stats, recipe).to(device), torch.from_numpy(colour).to(out)
    for first in range(0, len(out), at_once):
        part = slice(first, first + at_once)
        x = _less_mean(images_u8[part], windows[part], mean, recipe)
        out[part] = _shrunk(x, recipe.network.shrink).add_(shift[part, :, None, None])
    return out


def _mean(stats: ImageStatistics, recipe: Recipe) -> Tensor:
    """What is subtracted: (3, 256, 256), (3, crop, crop) or (3, 1, 1)."""
    crop, kind = recipe.network.crop_px, recipe.augment.mean
    if kind == "channel":
        return stats.rgb_mean[:, None, None]
    edge = (PICTURE_PX - crop) // 2
    centre = stats.mean_image[:, edge : edge + crop, edge : edge + crop]
    return stats.mean_image if kind == "crop" else centre


def _less_mean(
    images_u8: Tensor, windows: NDArray[np.int64], mean: Tensor, recipe: Recipe
) -> Tensor:
    crop = recipe.network.crop_px
    x = _windows(images_u8, windows, crop)
    if recipe.augment.mean != "crop":
        return _mirrored(x, windows).float().sub_(mean)
    mean = _windows(mean.expand(len(x), -1, -1, -1), windows, crop)  # moves and turns with the crop
    return _mirrored(x.float().sub_(mean), windows)


def _windows(images: Tensor, windows: NDArray[np.int64], crop: int) -> Tensor:
    if len(images) == 1:
        top, left, _ = windows[0].tolist()
        return images[:, :, top : top + crop, left : left + crop]
    top, left, _ = torch.from_numpy(windows).to(images.device).unbind(1)
    number = torch.arange(len(images), device=images.device)
    return images.unfold(2, crop, 1).unfold(3, crop, 1)[number, :, top, left]


def _mirrored(x: Tensor, windows: NDArray[np.int64]) -> Tensor:
    if len(x) == 1:
        return x.flip(3) if windows[0, 2] else x
    turned = torch.from_numpy(windows[:, 2] == 1).to(x.device)
    return torch.where(turned[:, None, None, None], x.flip(3), x)


def _shrunk(x: Tensor, by: int) -> Tensor:
    """Means of by x by pixels; strided sums take a third of `avg_pool2d`'s time on a CPU."""
    if by == 1:
        return x
    rows = sum((x[:, :, place::by] for place in range(1, by)), x[:, :, ::by])
    total = sum((rows[..., place::by] for place in range(1, by)), rows[..., ::by])
    return total / by**2
