"""The paper's update (section 5), with the learning rate inside the velocity.

    v <- momentum v - decay lr w - lr gradient;  w <- w + v

`torch.optim.SGD` keeps the rate outside of the velocity: equal while the rate is constant, but
different for about ten steps after each drop, when the velocity here still carries the old rate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infra.recipes import Recipe
from train.network import AlexNet, join, split
from train.schedule import Rates


class Momentum:
    """Stochastic gradient descent on an AlexNet's parameters; one velocity a parameter."""

    def __init__(self, net: AlexNet, recipe: Recipe) -> None:
        self.net, self.recipe = net, recipe
        self.velocity = {
            name: [torch.zeros_like(share) for share in net.shares(name)]
            for name in net.canonical_names()
        }

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the parameters' `.grad` (gradients of the batch's mean loss)."""
        optimizer = self.recipe.optimizer
        for row in self.net.rows:
            for part, lr, decay in (
                ("weight", rates.weights[row.name], optimizer.weight_decay),
                ("bias", rates.biases[row.name], optimizer.bias_decay),
            ):
                name = f"{row.name}.{part}"
                self._update(name, lr, decay)

    def _update(self, name: str, lr: float, decay: float) -> None:
        if lr == 0.0:
            return  # 2012 source: a rate of 0 freezes the layer, velocity and decay included
        for share, v in zip(self.net.shares(name), self.velocity[name], strict=True):
            assert share.grad is not None, f"{name} has no gradient"
            v.mul_(self.recipe.optimizer.momentum)
            if decay:
                v.add_(share, alpha=-decay * lr)
            v.add_(share.grad, alpha=-lr)
            share.add_(v)

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for share in self.net.parameters():
            share.grad = None

    def state(self) -> dict[str, Tensor]:
        """The velocities in the canonical layout: new float32 CPU tensors, named as the weights."""
        return {name: join(shares) for name, shares in self.velocity.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes velocities saved by `state`; raises `DataError` naming what does not fit."""
        for name, shares in self.velocity.items():
            split(shares, name, state)
