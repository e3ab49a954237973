"""Training images and test views out of 256x256 pictures (section 4.1).

Crops, reflections and PCA colour are drawn by (seed, epoch, sample id): batches, ranks and workers
do not show. Pixels stay on the 0-255 scale; the training set's mean is subtracted.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
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


def training_batch(
    images_u8: Tensor,
    ids: NDArray[np.int64],
    *,
    epoch: int,
    seed: int,
    stats: ImageStatistics,
    recipe: Recipe,
) -> Tensor:
    """Augmented images (N, 3, px, px) float32 from pictures (N, 3, 256, 256) uint8.

    ids: (N,) sample ids; each draw is keyed by (seed, epoch, id). Same device as the pictures.
    """
    room = PICTURE_PX - recipe.network.crop_px
    rows, columns = (
        draws.below(max(room, 1), what, seed, epoch, ids) for what in (ROW, COLUMN)
    )  # 224 of 256: 32 offsets, the paper's 32 x 32 x 2 = 2048 images
    flips = recipe.augment.flip & (draws.bits(FLIP, seed, epoch, ids) >> np.uint64(63) == 1)
    out = crops(images_u8, rows, columns, stats=stats, recipe=recipe)
    flipped = torch.from_numpy(np.flatnonzero(flips)).to(out.device)
    out[flipped] = out[flipped].flip(3)
    if recipe.augment.colour != "none":
        shift = torch.from_numpy(colour_shift(ids, epoch, seed, stats, recipe)).to(out)
        out += shift[:, :, None, None]
    return out


def crops(
    images_u8: Tensor,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    *,
    stats: ImageStatistics,
    recipe: Recipe,
) -> Tensor:
    """The crop of each picture with its top left corner at (row, column), less the mean."""
    crop, shrink = recipe.network.crop_px, recipe.network.shrink
    centre = (PICTURE_PX - crop) // 2
    out = torch.empty((len(images_u8), 3, crop, crop), device=images_u8.device)
    mean_image = stats.mean_image.to(out.device)
    for index, (top, left) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        picture = images_u8[index, :, top : top + crop, left : left + crop]
        if recipe.augment.mean == "channel":
            mean = stats.rgb_mean.to(out.device)[:, None, None]
        elif recipe.augment.mean == "centre":
            mean = mean_image[:, centre : centre + crop, centre : centre + crop]
        else:
            mean = mean_image[:, top : top + crop, left : left + crop]
        torch.sub(picture, mean, out=out[index])
    return out if shrink == 1 else F.avg_pool2d(out, shrink)


def colour_shift(
    ids: NDArray[np.int64], epoch: int, seed: int, stats: ImageStatistics, recipe: Recipe
) -> NDArray[np.float64]:
    """What PCA colour adds to R, G and B of each image, in 0-255 levels: (N, 3).

    Section 4.1 multiplies each component by its eigenvalue; the 2012 source by the square root
    (`colour = "deviation"`), which is free of the pixel scale.
    """
    augment, unit = recipe.augment, 255.0 / recipe.augment.colour_scale
    alpha = draws.normal(COLOUR, seed, epoch, ids[:, None], np.arange(3)) * augment.colour_std
    size = (
        np.sqrt(stats.eigenvalues)
        if augment.colour == "deviation"
        else stats.eigenvalues / unit**2 * unit
    )
    result: NDArray[np.float64] = (alpha * size) @ stats.eigenvectors.T
    return result


def views(images_u8: Tensor, stats: ImageStatistics, recipe: Recipe, num_views: int = 1) -> Tensor:
    """Test views (N, views, 3, px, px): 1 = the centre; 10 = centre and corners, then mirrored."""
    room = PICTURE_PX - recipe.network.crop_px
    corners = [(room // 2, room // 2), (0, 0), (0, room), (room, 0), (room, room)]
    ones = np.ones(len(images_u8), np.int64)
    kinds = [
        crops(images_u8, ones * top, ones * left, stats=stats, recipe=recipe)
        for top, left in (corners if num_views == 10 else corners[:1])
    ]
    if num_views == 10:
        kinds += [kind.flip(3) for kind in kinds]
    return torch.stack(kinds, 1)
