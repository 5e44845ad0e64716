"""Autoencoders with linear layers between encoder and decoder (Jing, Zbontar and LeCun, arXiv 2010.00679)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from workloads.factorizations.base import Cost, Factorization, Program
from workloads.section import Conflict, Count, Counts, FileRef, Whole

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.factorizations.programs.layers import Layer

Activation = Literal["identity", "relu", "sigmoid", "tanh"]
BOUNDS = {"relu": (0.0, math.inf), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""Of what activations give, where there are any."""
MOST_LAYERS = 1000


class Autoencoder(Factorization):
    """A code between fully connected layers, with square linear ones after it: x → encoder → linear → decoder.

    Layers have biases, linear ones have none. There is no matrix that it is a product of: only measures that need none are defined.
    """

    kind = "autoencoder"
    example = "{kind: autoencoder, linear_layers: 2, hidden: [256], code_size: 32}"
    maps: ClassVar[bool] = True

    code_size: Count
    """Numbers of a code."""
    hidden: Counts = ()
    """Widths of the encoder's hidden layers; the decoder has them the other way round."""
    linear_layers: Annotated[Whole, Field(ge=0, le=MOST_LAYERS)] = 0
    """Square linear layers after the code, without bias: what comes out of them is the code that measures look at."""
    activation: Activation = "relu"
    """What follows hidden layers; the code has none."""
    output: Activation = "tanh"
    """What follows the last layer."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {name: dimensions for name, dimensions, _ in self._factors(shape)}

    def _factors(self, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """Yield each factor's name, shape, and of how many numbers its layer's outputs are made."""
        widths = (math.prod(shape), *self.hidden, self.code_size)
        for n, (into, out) in enumerate(pairwise(widths), 1):
            yield f"encoder_{n}", (out, into), into
            yield f"encoder_bias_{n}", (out,), into
        for n in range(1, self.linear_layers + 1):
            yield f"linear_{n}", (self.code_size, self.code_size), self.code_size
        for n, (into, out) in enumerate(pairwise(widths[::-1]), 1):
            yield f"decoder_{n}", (out, into), into
            yield f"decoder_bias_{n}", (out,), into

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers from inputs to values, by the places of their factors."""
        from workloads.factorizations.programs.layers import Layer

        depth = len(self.hidden) + 1
        encoder = [Layer(2 * n, 2 * n + 1, self.activation) for n in range(depth - 1)]
        code = Layer(2 * depth - 2, 2 * depth - 1, "identity")
        linear = [Layer(2 * depth + n, None, "identity") for n in range(self.linear_layers)]
        first = 2 * depth + self.linear_layers
        decoder = [Layer(first + 2 * n, first + 2 * n + 1, self.activation) for n in range(depth - 1)]
        last = Layer(first + 2 * depth - 2, first + 2 * depth - 1, self.output)
        return (*encoder, code, *linear, *decoder, last)

    def encoded(self, factors: Sequence[Tensor], inputs: Tensor) -> Tensor:
        from workloads.factorizations.programs.layers import through

        return through(self.layers()[: self._until_code], factors, inputs)

    def decoded(self, factors: Sequence[Tensor], codes: Tensor) -> Tensor:
        from workloads.factorizations.programs.layers import through

        return through(self.layers()[self._until_code :], factors, codes)

    @property
    def _until_code(self) -> int:
        return len(self.hidden) + 1 + self.linear_layers

    def code_width(self) -> int:
        return self.code_size

    def mapped(self, params: Sequence[Tensor], grads: Sequence[Tensor], inputs: Tensor, outer: Tensor) -> Program:
        from workloads.factorizations.programs.layers import LayersProgram

        return LayersProgram(self.layers(), params, grads, inputs, outer)

    def fan_ins(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(into for *_, into in self._factors(shape))

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """See `Factorization.cost`, of one input: three products a layer but the first, each output held with its gradient."""
        matrices = [dimensions for dimensions in self.shapes(shape).values() if len(dimensions) == 2]
        flops = 6 * sum(out * into for out, into in matrices) - 2 * math.prod(matrices[0])
        return Cost(flops, 2 * sum(out for out, _ in matrices), 4 * len(matrices))

    def input_conflicts(self, inputs: FileRef) -> Iterator[Conflict]:
        least, most = BOUNDS.get(self.output, (-math.inf, math.inf))
        lowest, highest = inputs.span or (0.0, 0.0)
        if lowest < least or highest > most:
            bounds = f"from {least:g} to {most:g}" if math.isfinite(most) else f"{least:g} or more"
            mend = "scale them, or use output: identity"
            yield "factorization.output", f"is {self.output}, {bounds}, but {inputs.path} has images from {lowest:g} to {highest:g}: {mend}"

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(self.hidden) > MOST_LAYERS:
            yield "factorization.hidden", f"has {len(self.hidden):,} layers, more than {MOST_LAYERS:,}"
            return
        if not self.hidden and "activation" in self.model_fields_set:
            yield "factorization.activation", "has no effect without hidden layers"
        yield from super().conflicts(shape)
