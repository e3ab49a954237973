"""What MLflow calls to serve a registered ensemble (`mlflow models serve`, `pyfunc.load_model`).

MLflow imports this module by its name and hands it the ensemble's folder: no pickle is involved.
Input: a table with a column `image` of encoded pictures (JPEG, PNG, ...; base64 over HTTP).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ensemble.model import Model, load_model
from ensemble.pictures import Named
from ensemble.predict import Prediction, predict
from infra.storage import open_place

INPUTS = [{"name": "image", "type": "binary", "required": True}]
OUTPUTS = [
    {"name": name, "type": "array", "items": {"type": kind}, "required": True}
    for name, kind in (
        ("label", "long"),
        ("wnid", "string"),
        ("words", "string"),
        ("probability", "double"),
    )
] + [{"name": "reason", "type": "string", "required": True}]
PARAMS = [
    {"name": "top", "type": "long", "default": 5, "shape": None},
    {"name": "views", "type": "long", "default": 1, "shape": None},
]


class Served:
    """A loaded ensemble; a bad picture's row has empty lists and a `reason`."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, table: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """For each row of a pandas table, the `top` labels, names and probabilities as lists."""
        chosen = params or {}
        pictures = (Named(name=str(at), data=data) for at, data in enumerate(table["image"]))
        found = predict(
            self.model,
            pictures,
            top=int(chosen.get("top", 5)),
            num_views=int(chosen.get("views", 1)),
        )
        return [_row(prediction) for prediction in found]


def _row(prediction: Prediction) -> dict[str, Any]:
    guesses = [asdict(guess) for guess in prediction.guesses]
    names = ("label", "wnid", "words", "probability")
    return {
        **{name: [guess[name] for guess in guesses] for name in names},
        "reason": prediction.reason,
    }


def _load_pyfunc(path: str) -> Served:
    """MLflow's entry: the ensemble in the folder, every digest checked."""
    return Served(load_model(open_place(path)))
