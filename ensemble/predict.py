"""The most probable labels of pictures, batch by batch; a bad picture costs itself alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ensemble.model import Model
from ensemble.pictures import Named
from pipeline.careful import Decoder
from pipeline.header import BadImage
from pipeline.image import square
from pipeline.rule import Pixels

BATCH = 32  # pictures decoded and predicted together


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """One label and its probability, 0 to 1."""

    label: int
    wnid: str
    words: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A picture's guesses, most probable first; or the reason why there are none."""

    name: str
    guesses: tuple[Guess, ...] = ()
    reason: str = ""


def predict(
    model: Model,
    pictures: Iterable[Named],
    *,
    top: int = 5,
    num_views: int = 1,
    decode: Decoder = square,
) -> Iterator[Prediction]:
    """A prediction for each picture, in order; memory does not grow with their number.

    Pictures are resized as preprocessing does (shorter side 256, central 256x256), without
    compressing them again. `decode` is `square`, or one that survives a decoder's death.
    """
    batch: list[tuple[str, Pixels | str]] = []
    for picture in pictures:
        batch.append((picture.name, picture.reason or _pixels(picture.data, decode)))
        if len(batch) == BATCH:
            yield from _predict(model, batch, top, num_views)
            batch = []
    if batch:
        yield from _predict(model, batch, top, num_views)


def _pixels(data: bytes, decode: Decoder) -> Pixels | str:
    try:
        return decode(data).pixels
    except BadImage as refused:
        return str(refused)


def _predict(
    model: Model, batch: list[tuple[str, Pixels | str]], top: int, num_views: int
) -> Iterator[Prediction]:
    good = [pixels for _, pixels in batch if not isinstance(pixels, str)]
    found = iter(_guesses(model, good, top, num_views) if good else [])
    for name, pixels in batch:
        if isinstance(pixels, str):
            yield Prediction(name=name, reason=pixels)
        else:
            yield Prediction(name=name, guesses=next(found))


def _guesses(
    model: Model, pixels: list[Pixels], top: int, num_views: int
) -> list[tuple[Guess, ...]]:
    images_u8 = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    found = model.probabilities(images_u8, num_views)
    best = torch.sort(found, dim=1, descending=True, stable=True)
    return [
        tuple(_guess(model, label, share) for label, share in zip(labels, shares, strict=True))
        for labels, shares in zip(
            best.indices[:, :top].tolist(), best.values[:, :top].tolist(), strict=True
        )
    ]


def _guess(model: Model, label: int, share: float) -> Guess:
    name = model.classes[label]
    return Guess(label=label, wnid=name.wnid, words=name.words, probability=share)
