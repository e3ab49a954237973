"""The pictures that the report shows with their most probable labels, like the paper's Figure 4.

They are drawn, not picked: the first eight classes, and the first picture of each, in an order that
a counter-based generator gives.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemble.manifest import EXAMPLES, File
from infra.errors import DamageError
from infra.manifest import sha256, to_json
from infra.storage import Place
from pipeline.rule import ImageRule
from train import draws

COUNT = 8  # as in Figure 4
GUESSES = 5
PICK = 31  # what the draw is for


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A picture as JPEG, its right label, and the most probable labels, best first."""

    key: str
    label: int
    jpeg: bytes
    guesses: tuple[tuple[int, float], ...]  # label, probability


def choose(labels: NDArray[np.int64], count: int = COUNT) -> NDArray[np.int64]:
    """Sample ids of `count` examples: of as many classes as there are, then further samples."""
    order = np.argsort(draws.bits(PICK, np.arange(len(labels))), kind="stable")
    _, first = np.unique(labels[order], return_index=True)
    firsts = np.sort(first)
    rest = np.setdiff1d(np.arange(len(order)), firsts)
    chosen: NDArray[np.int64] = order[np.concatenate([firsts, rest])[:count]]
    return chosen


def make_examples(
    keys: list[str], images_u8: Tensor, labels: Tensor, found: Tensor
) -> list[Example]:
    """Examples of pictures (N, 3, 256, 256) and their probabilities (N, classes)."""
    from pipeline.image import encode  # loads torchvision, which who reads examples need not

    top = torch.topk(found, min(GUESSES, found.shape[1]), dim=1)
    return [
        Example(
            key=key,
            label=int(label),
            jpeg=encode(image.permute(1, 2, 0).numpy(), ImageRule()),
            guesses=tuple(zip(best.tolist(), values.tolist(), strict=True)),
        )
        for key, image, label, best, values in zip(
            keys, images_u8, labels, top.indices, top.values, strict=True
        )
    ]


def write_examples(place: Place, examples: list[Example]) -> File:
    """Publishes `report/examples.json`."""
    rows = [
        {
            "key": example.key,
            "label": example.label,
            "jpeg": base64.b64encode(example.jpeg).decode(),
            "guesses": [list(guess) for guess in example.guesses],
        }
        for example in examples
    ]
    data = to_json(rows)
    place.write(EXAMPLES, data)
    return File(bytes=len(data), sha256=sha256(data))


def read_examples(data: bytes) -> list[Example]:
    """What `write_examples` wrote; raises `DamageError`."""
    try:
        return [_example(row) for row in json.loads(data)]
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise DamageError(f"{EXAMPLES} is damaged: {error}.") from None


def _example(row: dict[str, Any]) -> Example:
    return Example(
        key=str(row["key"]),
        label=int(row["label"]),
        jpeg=base64.b64decode(row["jpeg"], validate=True),
        guesses=tuple((int(label), float(share)) for label, share in row["guesses"]),
    )
