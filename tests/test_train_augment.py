"""Training images and test views against a slow numpy version, and free of batches and ranks."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infra.recipes import Recipe, load_recipe
from train import augment, draws
from train.augment import (
    ImageStatistics,
    colour_is_on,
    colour_shift,
    sample_keys,
    training_batch,
    views,
)

SEED, EPOCH = 3, 2
PLAIN = ["augment.colour=none"]
# standard deviations on 0-255 and axes that cuda-convnet2 measured on ImageNet (alexnet-facts s11)
DEVIATIONS = np.array([121.7800609929, 37.0938885330, 19.7208330491])
AXES = np.array(
    [
        [-0.5635105, -0.7125795, 0.4179551],
        [-0.5761844, -0.0235417, -0.8169806],
        [-0.5920030, 0.7011963, 0.3973112],
    ]
)


def pictures(count: int, seed: int = 0) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.integers(0, 256, (count, 3, 256, 256), dtype=np.uint8))


MEAN = np.random.default_rng(7).uniform(80, 150, (256, 256, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def stats() -> ImageStatistics:
    file = io.BytesIO()
    np.savez(
        file,
        mean_image=MEAN,
        rgb_mean=MEAN.mean((0, 1), dtype=np.float64),
        eigenvalues=DEVIATIONS**2,
        eigenvectors=AXES,
        count=np.int64(9),
    )
    return ImageStatistics.read(file.getvalue())


def slowly(picture: Tensor, number: int, stats: ImageStatistics, recipe: Recipe) -> np.ndarray:
    """One training image, without colour, by numpy's plain slicing."""
    crop = recipe.network.crop_px
    offsets = 256 - crop + (1 if recipe.augment.last_crop else 0)
    top = int(draws.below(offsets, augment.ROW, SEED, EPOCH, number))
    left = int(draws.below(offsets, augment.COLUMN, SEED, EPOCH, number))
    cut = picture.numpy()[:, top : top + crop, left : left + crop].astype(np.float64)
    mean, edge = stats.mean_image.numpy().astype(np.float64), (256 - crop) // 2
    turn = recipe.augment.flip and draws.uniform(augment.FLIP, SEED, EPOCH, number) >= 0.5
    mirrored = cut[:, :, ::-1] if turn else cut
    if recipe.augment.mean == "crop":
        less = cut - mean[:, top : top + crop, left : left + crop]
        return less[:, :, ::-1] if turn else less
    if recipe.augment.mean == "centre":
        return mirrored - mean[:, edge : edge + crop, edge : edge + crop]
    return mirrored - stats.rgb_mean.numpy()[:, None, None]


def batch(images: Tensor, ids: np.ndarray, stats: ImageStatistics, recipe: Recipe) -> Tensor:
    keys = sample_keys(ids, seed=SEED, epoch=EPOCH, recipe=recipe)
    return training_batch(images, keys, stats=stats, recipe=recipe)


def shifts(ids: np.ndarray, stats: ImageStatistics, recipe: Recipe) -> np.ndarray:
    keys = sample_keys(ids, seed=SEED, epoch=EPOCH, recipe=recipe)
    return colour_shift(keys, stats, recipe)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["augment.mean=centre"],
        ["augment.mean=channel"],
        ["augment.flip=false"],
        ["augment.last_crop=true"],
        ["network.crop_px=227"],
        ["network.crop_px=256"],
    ],
    ids=str,
)
def test_training_images_are_those_of_plain_slicing(
    changes: list[str], stats: ImageStatistics
) -> None:
    recipe, ids, images = load_recipe("paper", PLAIN + changes), np.arange(40, 52), pictures(12)
    found = batch(images, ids, stats, recipe)
    crop = recipe.network.crop_px
    assert found.shape == (12, 3, crop, crop)
    assert found.dtype == torch.float32
    for index, number in enumerate(ids):
        expected = slowly(images[index], int(number), stats, recipe)
        np.testing.assert_allclose(found[index].numpy(), expected, atol=1e-4)


def test_images_do_not_depend_on_the_batch_or_the_rank(stats: ImageStatistics) -> None:
    recipe, ids, images = load_recipe("paper"), np.arange(10) * 7, pictures(10)
    together = batch(images, ids, stats, recipe)
    shuffled = np.random.default_rng(1).permutation(10)
    assert torch.equal(
        batch(images[shuffled], ids[shuffled], stats, recipe), together[torch.from_numpy(shuffled)]
    )
    parts = [batch(images[part], ids[part], stats, recipe) for part in (slice(0, 3), slice(3, 10))]
    assert torch.equal(torch.cat(parts), together)
    assert batch(images[:0], ids[:0], stats, recipe).shape == (0, 3, 224, 224)


def test_seed_epoch_and_sample_each_draw_anew(stats: ImageStatistics) -> None:
    recipe, image = load_recipe("paper"), pictures(1)
    drawn = [
        training_batch(
            image,
            sample_keys(np.array([number]), seed=seed, epoch=epoch, recipe=recipe),
            stats=stats,
            recipe=recipe,
        )
        for seed, epoch, number in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    for index, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:index])


def test_runs_of_a_batch_may_share_a_crop_but_not_a_colour(stats: ImageStatistics) -> None:
    image, ids = pictures(1), np.arange(50, 60)
    same = image.expand(10, -1, -1, -1)
    recipe = load_recipe("paper", ["augment.crop_run=4", *PLAIN])
    found = batch(same, ids, stats, recipe)
    own = batch(same, ids, stats, load_recipe("paper", PLAIN))
    for index in range(10):
        assert torch.equal(found[index], own[index // 4 * 4])
    assert not torch.equal(found[0], found[4])
    loud = load_recipe("paper", ["augment.crop_run=4"])
    together = batch(same, ids, stats, loud)
    assert not torch.allclose(together[0], together[1])

    keys = sample_keys(ids, seed=SEED, epoch=EPOCH, recipe=loud)  # a rank's part cuts a run in two
    parts = [
        training_batch(same[part], keys.part(part), stats=stats, recipe=loud)
        for part in (slice(0, 5), slice(5, 10))
    ]
    assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize(("last", "offsets"), [("false", 32), ("true", 33)])
def test_every_offset_and_reflection_comes_up_equally(last: str, offsets: int) -> None:
    recipe = load_recipe("paper", [f"augment.last_crop={last}", "augment.colour=none"])
    ids = np.arange(20_000)
    rows, columns = (
        draws.below(256 - 224 + recipe.augment.last_crop, what, SEED, EPOCH, ids)
        for what in (augment.ROW, augment.COLUMN)
    )
    flips = draws.uniform(augment.FLIP, SEED, EPOCH, ids) >= 0.5
    for drawn in (rows, columns):
        counts = np.bincount(drawn, minlength=offsets)
        assert len(counts) == offsets
        assert abs(counts - 20_000 / offsets).max() < 6 * (20_000 / offsets) ** 0.5
    assert abs(flips.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(np.stack((rows, columns, flips)))[0, 1:]).max() < 0.03


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ([], (3.28, 3.34, 3.45)),  # the text taken on [0, 1] pixels
        (["augment.colour=deviation"], (7.4, 7.2, 7.7)),  # the 2012 source
        (["augment.colour_scale=255"], (840, 860, 885)),  # the text taken on 0-255: nonsense
    ],
    ids=["eigenvalue", "deviation", "eigenvalue-255"],
)
def test_colour_has_the_sizes_known_for_imagenet(
    changes: list[str], levels: tuple[float, ...], stats: ImageStatistics
) -> None:
    recipe = load_recipe("paper", changes)
    shift = shifts(np.arange(50_000), stats, recipe)
    np.testing.assert_allclose(shift.std(0), levels, rtol=0.03)
    assert abs(shift.mean(0)).max() < 0.02 * max(levels)
    along = shift @ AXES  # the three components are independent
    assert abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.02


def test_colour_is_added_to_all_pixels_of_an_image_alike(stats: ImageStatistics) -> None:
    ids, images = np.arange(4), pictures(4)
    plain = batch(images, ids, stats, load_recipe("paper", PLAIN))
    recipe = load_recipe("paper", ["augment.colour=deviation", "augment.colour_divisor=1.1"])
    added = batch(images, ids, stats, recipe).double() * 1.1 - plain.double()
    shift = torch.from_numpy(shifts(ids, stats, recipe))
    torch.testing.assert_close(added, shift[:, :, None, None].expand_as(added), atol=2e-4, rtol=0)


def test_colour_and_its_division_end_with_their_last_epoch(stats: ImageStatistics) -> None:
    changes = ["augment.colour_epochs=2", "augment.colour_divisor=1.1"]
    recipe, ids, images = load_recipe("paper", changes), np.arange(3), pictures(3)
    assert [colour_is_on(recipe, epoch) for epoch in range(4)] == [True, True, False, False]
    plain = batch(images, ids, stats, load_recipe("paper", PLAIN))
    assert torch.equal(batch(images, ids, stats, recipe), plain)  # EPOCH is 2
    assert not colour_is_on(load_recipe("paper", PLAIN), 0)


def test_shrinking_takes_the_mean_of_squares_of_pixels(stats: ImageStatistics) -> None:
    ids, images = np.arange(3), pictures(3)
    fine = batch(images, ids, stats, load_recipe("paper"))
    for shrink in (2, 4):
        coarse = batch(images, ids, stats, load_recipe("paper", [f"network.shrink={shrink}"]))
        torch.testing.assert_close(coarse, F.avg_pool2d(fine, shrink), atol=1e-4, rtol=0)


def test_ten_views_are_centre_and_corners_and_their_mirror_images(stats: ImageStatistics) -> None:
    recipe, images = load_recipe("paper"), pictures(2)
    found = views(images, stats, recipe, 10)
    assert found.shape == (2, 10, 3, 224, 224)
    for index, (top, left) in enumerate([(16, 16), (0, 0), (0, 32), (32, 0), (32, 32)]):
        window = (slice(None), slice(top, top + 224), slice(left, left + 224))
        for picture, shown in zip(images, found, strict=True):
            less = picture[window].float() - stats.mean_image[window]
            assert torch.equal(shown[index], less)
            assert torch.equal(shown[index + 5], less.flip(2))
    assert torch.equal(views(images, stats, recipe, 1), found[:, :1])


def test_test_views_have_no_colour_and_no_division(stats: ImageStatistics) -> None:
    loud = load_recipe("paper", ["augment.colour=deviation", "augment.colour_divisor=1.1"])
    images = pictures(1)
    assert torch.equal(
        views(images, stats, loud, 10), views(images, stats, load_recipe("paper"), 10)
    )


def test_the_centre_mean_is_not_mirrored(stats: ImageStatistics) -> None:
    recipe, image = load_recipe("paper", ["augment.mean=centre"]), pictures(1)
    found, centre = views(image, stats, recipe, 10)[0], stats.mean_image[:, 16:240, 16:240]
    assert torch.equal(found[6], image[0, :, :224, :224].flip(2).float() - centre)


@pytest.mark.parametrize("mean", ["crop", "centre", "channel"])
def test_a_batch_at_once_as_on_a_gpu_equals_one_at_a_time(
    mean: str, stats: ImageStatistics
) -> None:
    recipe, images = load_recipe("paper", [f"augment.mean={mean}"]), pictures(5)
    windows = np.array([[0, 3, 0], [32, 31, 1], [5, 5, 1], [7, 0, 0], [16, 16, 1]])
    level = augment._mean(stats, recipe)
    together = augment._less_mean(images, windows, level, recipe)
    for index in range(5):
        part = slice(index, index + 1)
        one = augment._less_mean(images[part], windows[part], level, recipe)
        assert torch.equal(one[0], together[index])


def test_statistics_keep_their_layout(stats: ImageStatistics) -> None:
    assert stats.mean_image.shape == (3, 256, 256)
    assert stats.mean_image[2, 10, 200] == MEAN[10, 200, 2]
    torch.testing.assert_close(stats.mean_image.mean((1, 2)), stats.rgb_mean)
    assert stats.eigenvalues[0] > stats.eigenvalues[2]
