"""Bits of weights and activations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import CoreSchema

from qpatchbench.types.written import Written

FLOAT_BITS = 32
HALF = "bf16-mixed"  # a precision, as Lightning Fabric names it

LOWEST_BITS, HIGHEST_BITS = 2, 16


@dataclass(frozen=True, order=True)
class Bits(Written):
    """Weight and activation width in bits: 2..16, or 32 for float.

    Written `4` where both are equal and `w4a8` where they differ.
    """

    weight: int
    activation: int

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read 4, "4", "w4a8" or a `Bits`.

        >>> Bits.parse("w4a8")
        Bits(weight=4, activation=8)
        """
        if isinstance(value, cls):
            return value
        plain = "" if isinstance(value, bool) else str(value)
        match = re.fullmatch(r"([1-9][0-9]*)|w([1-9][0-9]*)a([1-9][0-9]*)", plain)
        if match is None:
            raise ValueError(f"expected a bit-width such as 4 or w4a8, found {value!r}")
        widths = [int(group) for group in match.groups() if group is not None]
        for width in widths:
            if width != FLOAT_BITS and not LOWEST_BITS <= width <= HIGHEST_BITS:
                raise ValueError(
                    f"expected bits in {LOWEST_BITS}..{HIGHEST_BITS}, or {FLOAT_BITS} for float, found {width}"
                )
        return cls(widths[0], widths[-1])

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight == self.activation == FLOAT_BITS

    def __str__(self) -> str:
        return str(self.weight) if self.weight == self.activation else f"w{self.weight}a{self.activation}"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {
            "description": "bit-width: 2..16, 32 for float, or w4a8 where weights and activations differ",
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^(\d+|w\d+a\d+)$"}],
        }

    def plain(self) -> int | str:
        """As a suite writes it."""
        return self.weight if self.weight == self.activation else str(self)


FLOAT = Bits(FLOAT_BITS, FLOAT_BITS)
