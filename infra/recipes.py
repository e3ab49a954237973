"""Recipes: every number of a network and of its training, as data.

A recipe is a TOML file in `infra/recipes/` (or any path that ends in `.toml`), read into frozen
dataclasses. Unknown keys are errors, `--set a.b=c` replaces one value, and the resolved recipe is
written into each run. Where a field has a default, it is the paper's value (Krizhevsky, Sutskever
and Hinton 2012). Recipes differ only in data: one builder in `train/` serves all.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.errors import ConfigError
from infra.tables import override_value, read_table

FOLDER = Path(__file__).parent / "recipes"
After = Literal["relu", "tanh", "norm", "spatial_norm", "pool", "dropout"]


def _demand(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One learned layer: a row of the paper's table (sections 3.5 and 5)."""

    kind: Literal["conv", "fc"]
    kernels: int  # outputs of both halves together; 0 = one for each class (the last layer)
    size: int = 1  # kernel height and width, pixels
    stride: int = 1
    pad: int = 0  # zeros on each side
    sees: Literal["own", "both"] = "own"  # which halves of the layer below its kernels read
    std: float = 0.01  # of the Gaussian that the weights start from
    bias: float = 0.0  # constant that the biases start from
    after: tuple[After, ...] = ()  # what follows, in order

    def __post_init__(self) -> None:
        _demand(self.kernels >= 0, "kernels", self.kernels, "0 (= classes) or more")
        _demand(
            self.size >= 1 and self.stride >= 1,
            "size, stride",
            (self.size, self.stride),
            "at least 1",
        )
        _demand(0 <= self.pad < self.size, "pad", self.pad, "0 to size - 1")
        _demand(self.std > 0, "std", self.std, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What is not in the table of layers."""

    halves: Literal[1, 2] = 2  # 2 = the paper's two GPUs
    crop_px: int = 224  # side of the crop, in pixels of the 256x256 picture
    shrink: int = 1  # crops are averaged over shrink x shrink pixels: a cheaper, coarser input
    input_scale: float = 1.0  # multiplies the input; 1 = the paper's levels, 0-255 less the mean
    input_pad: tuple[int, int, int, int] = (
        0,
        3,
        0,
        3,
    )  # zeros left, right, top, bottom: 224 -> 227 -> 55
    pool_size: int = 3  # overlapping: size > stride (section 3.4)
    pool_stride: int = 2
    dropout: float = 0.5
    dropout_scales: Literal["test", "train"] = (
        "test"  # "test": mask only, outputs x keep at test time
    )

    def __post_init__(self) -> None:
        _demand(16 <= self.crop_px <= 256, "crop_px", self.crop_px, "16 to 256")
        fits = self.shrink >= 1 and self.crop_px % self.shrink == 0
        _demand(fits, "shrink", self.shrink, "a whole number that divides crop_px")
        _demand(self.input_scale > 0, "input_scale", self.input_scale, "above 0")
        _demand(0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1")

    @property
    def input_px(self) -> int:
        """Side of the network's input, before `input_pad`."""
        return self.crop_px // self.shrink


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseNorm:
    """b = a / (k + alpha * sum of a^2 over `size` neighbouring maps)^beta (section 3.3).

    alpha multiplies the plain sum, as in the paper; PyTorch's and Caffe's alpha is `size` times it.
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    within: Literal["half", "layer"] = "half"  # whose maps are neighbours

    def __post_init__(self) -> None:
        _demand(self.size % 2 == 1, "size", self.size, "an odd number")
        _demand(self.k > 0 and self.alpha >= 0, "k, alpha", (self.k, self.alpha), "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatialNorm:
    """b = a / (k + alpha * sum of a^2 over size x size pixels of the same map)^beta.

    Not in the paper; the values are the 2012 source's "cnorm2", in the form of `ResponseNorm`.
    """

    size: int = 5
    k: float = 1.0
    alpha: float = 4e-5  # scale 1e-3, which the source divides by 5 x 5
    beta: float = 0.75

    def __post_init__(self) -> None:
        _demand(self.size % 2 == 1, "size", self.size, "an odd number")
        _demand(self.k > 0 and self.alpha >= 0, "k, alpha", (self.k, self.alpha), "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """Training images: mean subtraction, crops, reflections and PCA colour (section 4.1)."""

    mean: Literal["crop", "centre", "channel"] = (
        "crop"  # mean image cut at the crop / at its centre / one RGB mean
    )
    last_crop: bool = False  # 224 of 256 has 33 offsets; the paper's 2048 = 32 x 32 x 2 uses 32
    crop_run: int = 1  # consecutive images of a batch that share a crop and reflection
    flip: bool = True
    colour: Literal["eigenvalue", "deviation", "none"] = (
        "eigenvalue"  # deviation = sqrt(eigenvalue)
    )
    colour_std: float = 0.1  # of the Gaussian that multiplies each component
    colour_scale: Literal[1, 255] = 1  # pixel range on which eigenvalues are taken
    colour_divisor: float = 1.0  # the whole image is divided by it while colours are drawn
    colour_epochs: int | None = None  # colours are drawn in so many first epochs; None = in all

    def __post_init__(self) -> None:
        _demand(self.crop_run >= 1, "crop_run", self.crop_run, "at least 1")
        _demand(self.colour_std >= 0, "colour_std", self.colour_std, "0 or more")
        _demand(self.colour_divisor > 0, "colour_divisor", self.colour_divisor, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """v <- momentum v - decay lr w - lr gradient; w <- w + v (section 5); lr is inside v."""

    batch: int = 128  # images an update, over all replicas
    lr: float = 0.01
    bias_lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_decay: float = 0.0  # the paper's rule speaks of weights; the 2012 source passes 0

    def __post_init__(self) -> None:
        _demand(self.batch >= 1, "batch", self.batch, "at least 1")
        _demand(self.lr > 0, "lr", self.lr, "above 0")
        _demand(0 <= self.momentum < 1, "momentum", self.momentum, "0 to below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """A layer's own learning rate: from epoch at[i] on, to[i] times its first; 0 freezes it."""

    at: tuple[int, ...]
    to: tuple[float, ...]

    def __post_init__(self) -> None:
        _demand(len(self.at) == len(self.to), "to", self.to, f"{len(self.at)} numbers, as `at`")
        _demand(list(self.at) == sorted(set(self.at)), "at", self.at, "rising epochs")
        _demand(all(level >= 0 for level in self.to), "to", self.to, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long, and when the learning rate falls. Epoch 0 is the first."""

    epochs: int = 90
    kind: Literal["plateau", "epochs", "step", "exponential"] = "plateau"
    factor: float = 0.1  # what a drop multiplies the rate by
    drops: int = 3  # plateau: at most so many (section 5: "three times prior to termination")
    patience: int = 5  # plateau: epochs without a better validation error before a drop
    min_gain: float = 0.001  # plateau: share of the validation set that counts as better
    at: tuple[int, ...] = ()  # epochs: drop after so many epochs
    every: int = 20  # step: drop after each so many epochs
    final: float = 0.01  # exponential: rate of the last epoch over the first
    bias_drops: int | None = None  # biases follow so many drops of the weights; None = all
    own: dict[str, Levels] = field(default_factory=dict)  # layers that keep a list of their own

    def __post_init__(self) -> None:
        _demand(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _demand(0 < self.factor < 1, "factor", self.factor, "between 0 and 1")
        _demand(0 < self.final <= 1, "final", self.final, "above 0, at most 1")
        _demand(self.patience >= 1, "patience", self.patience, "at least 1")
        _demand(self.every >= 1, "every", self.every, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """Arithmetic: a choice of speed, not of method."""

    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of activations; weights and velocity stay float32
    )
    cores: int = 1  # CPU cores of one replica

    def __post_init__(self) -> None:
        _demand(self.cores >= 1, "cores", self.cores, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole recipe; `layers` maps a layer's name to its row, from the input upwards."""

    name: str
    summary: str
    layers: dict[str, Layer]
    network: Network = field(default_factory=Network)
    norm: ResponseNorm = field(default_factory=ResponseNorm)
    spatial_norm: SpatialNorm = field(default_factory=SpatialNorm)
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for name in self.schedule.own:
            _demand(name in self.layers, "schedule.own", name, ", ".join(self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_dict` takes them and as `member.json` stores them."""
        return dataclasses.asdict(self)


def recipe_names() -> list[str]:
    """Names of the recipes that come with Septet, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of that name, or in that `.toml` file, with `a.b=c` overrides applied.

    Raises `ConfigError` naming the key, its value and what is allowed.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(f"there is no recipe '{name}'; there are: {', '.join(recipe_names())}.")
    try:
        raw = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe '{path}' is not valid TOML: {error}.") from None
    for override in overrides:
        override_value(raw, override)
    return from_dict(raw)


def from_dict(raw: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; raises `ConfigError` for unknown keys and bad values."""
    return typing.cast(Recipe, read_table(Recipe, raw, "recipe"))
