"""The paper's table of layers (section 3.5, Figure 2), computed from a recipe.

The network is built from these rows, so what is printed and what is trained cannot drift apart.
Arithmetic only: no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.errors import ConfigError
from infra.recipes import Layer, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One learned layer with the sizes that follow from the layers below it."""

    name: str
    layer: Layer
    kernels: int  # outputs of all halves together
    reads: int  # input maps (conv) or input units (fc) that one kernel reads
    input_px: int  # height = width of what it reads; 1 for fc
    output_px: int  # of its own maps; 1 for fc
    pooled_px: int  # of what it hands upwards, after pooling; 1 for fc
    halves: int  # that it is spread over: 1 or 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weights in the canonical layout: (kernels, reads[, size, size])."""
        window = (self.layer.size,) * 2 if self.layer.kind == "conv" else ()
        return (self.kernels, self.reads, *window)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.kernels * self.reads * self.layer.size**2

    @property
    def parameters(self) -> int:
        """Weights and biases (one bias a kernel)."""
        return self.weights + self.kernels

    @property
    def multiply_adds(self) -> int:
        """Multiplications, each with its addition, of one image forward (biases not counted)."""
        return self.weights * self.output_px**2

    @property
    def neurons(self) -> int:
        """Outputs before pooling: what the paper counts (659,272 in all; Figure 2)."""
        return self.kernels * self.output_px**2


def layer_table(recipe: Recipe, num_classes: int) -> list[Row]:
    """The rows of the recipe's network, from the input upwards.

    Raises `ConfigError` naming the layer whose window does not fit or that cannot be halved.
    """
    network, rows = recipe.network, list[Row]()
    left, right, top, bottom = network.input_pad
    px, maps, halves = network.input_px + left + right, 3, 1
    if left + right != top + bottom:
        raise ConfigError(f"network.input_pad {network.input_pad} must keep the input square.")
    for name, layer in recipe.layers.items():
        last = name == list(recipe.layers)[-1]
        if last != (layer.kernels == 0) or (last and layer.kind != "fc"):
            raise ConfigError(
                f"layers.{name}: the last layer, and no other, is fully connected with kernels = 0."
            )
        if layer.kind == "conv" and rows and rows[-1].layer.kind == "fc":
            raise ConfigError(f"layers.{name} is a convolution above a fully connected layer.")
        spread = 1 if last else network.halves
        kernels = num_classes if last else layer.kernels
        if kernels % spread:
            raise ConfigError(f"layers.{name}.kernels is {kernels}; two halves need an even one.")
        seen = maps // (halves if layer.sees == "own" and not last else 1)
        row = _row(recipe, name, layer, (kernels, spread, seen, px))
        rows.append(row)
        px, maps, halves = row.pooled_px, kernels, spread
    if not rows:
        raise ConfigError("the recipe has no layers.")
    return rows


def _row(recipe: Recipe, name: str, layer: Layer, sizes: tuple[int, int, int, int]) -> Row:
    kernels, spread, seen, px = sizes
    if layer.kind == "fc":
        return Row(
            name=name,
            layer=layer,
            kernels=kernels,
            reads=seen * px * px,
            input_px=1,
            output_px=1,
            pooled_px=1,
            halves=spread,
        )
    output = (px + 2 * layer.pad - layer.size) // layer.stride + 1
    pooled = output
    for step in layer.after:
        if step == "pool":
            pooled = (pooled - recipe.network.pool_size) // recipe.network.pool_stride + 1
    if output < 1 or pooled < 1:
        raise ConfigError(f"layers.{name}: its window does not fit into maps of {px}x{px} pixels.")
    return Row(
        name=name,
        layer=layer,
        kernels=kernels,
        reads=seen,
        input_px=px,
        output_px=output,
        pooled_px=pooled,
        halves=spread,
    )
