"""Layers as a deployed file states them: the bits at which it multiplies, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StatedLayer:
    """One operator of a file that multiplies its inputs by weights.

    Attributes:
        name: of the operator.
        weight_bits, activation_bits: of the types in which the file holds them; 32 where it multiplies floats.
        weight_levels: most distinct weights of one output channel.
        activation_levels: distinct inputs on the images that were shown; None where they are floats.
        multiplications: multiply-accumulates per image.
        parameters: number of weights.
    """

    name: str
    weight_bits: int
    activation_bits: int
    weight_levels: int
    activation_levels: int | None
    multiplications: int
    parameters: int
