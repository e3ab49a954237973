"""The paper's update (section 5), with the learning rate inside the velocity.

    v <- momentum v - decay lr w - lr gradient;  w <- w + v

`torch.optim.SGD` keeps the rate outside of the velocity: equal while the rate is constant, but
different for about ten steps after each drop, when the velocity here still carries the old rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from infra.recipes import Recipe
from train.layout import join, spread
from train.network import AlexNet
from train.schedule import Rates


class Momentum:
    """Stochastic gradient descent on an AlexNet's parameters; one velocity a parameter."""

    def __init__(self, net: AlexNet, recipe: Recipe) -> None:
        self.net, self.recipe = net, recipe
        self.velocity = {
            name: [torch.zeros_like(share) for share in shares]
            for name, shares in net.parts().items()
        }

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the parameters' `.grad` (gradients of the batch's mean loss).

        A layer whose rate is 0 is frozen: no decay, and its velocity waits (2012 source).
        """
        momentum = self.recipe.optimizer.momentum
        for (lr, decay, _), pairs in self._groups(rates).items():
            weights, velocity = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            torch._foreach_mul_(velocity, momentum)
            if decay:
                torch._foreach_add_(velocity, weights, alpha=-decay * lr)
            torch._foreach_add_(velocity, [_gradient(weight) for weight in weights], alpha=-lr)
            torch._foreach_add_(weights, velocity)

    def _groups(self, rates: Rates) -> dict[tuple[float, float, int], list[tuple[Tensor, Tensor]]]:
        """(weights, velocity) of what is updated alike on one device: few kernels on a GPU."""
        optimizer = self.recipe.optimizer
        found = defaultdict[tuple[float, float, int], list[tuple[Tensor, Tensor]]](list)
        for name, shares in self.net.parts().items():
            layer, part = name.rsplit(".", 1)
            weight = part == "weight"
            lr = (rates.weights if weight else rates.biases)[layer]
            decay = optimizer.weight_decay if weight else optimizer.bias_decay
            pairs = zip(shares, self.velocity[name], strict=True)
            for half, pair in enumerate(pairs if lr != 0.0 else ()):
                found[lr, decay, half].append(pair)
        return found

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for share in self.net.parameters():
            share.grad = None

    def state(self) -> dict[str, Tensor]:
        """The velocities in the canonical layout: new float32 CPU tensors, named as the weights."""
        return join(self.velocity)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes velocities saved by `state`; raises `DataError` naming what does not fit."""
        spread(state, self.velocity)


def _gradient(share: Tensor) -> Tensor:
    assert share.grad is not None, "step comes after a backward pass"
    return share.grad
