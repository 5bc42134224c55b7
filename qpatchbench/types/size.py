"""Side of a square patch, in pixels or as a share of the image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import CoreSchema

from qpatchbench.types.written import Written, shortest


@dataclass(frozen=True, order=True)
class Size(Written):
    """Side of a square patch: in pixels, or as the share of the image that it covers.

    Written `6`, or `4%`; a share q of an H x W image gives the side floor(sqrt(q * H * W)), the "noise percentage"
    of patch studies.
    """

    pixels: int = 0
    percent: float = 0.0

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read 6, "4%" or a `Size`.

        >>> Size.parse("4%").side(32)
        6
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return cls(pixels=value)
        match = re.fullmatch(r"((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)[ \t]*%", str(value))
        if match is None or not 0 < float(match[1]) <= 100:
            raise ValueError(
                f"expected a side in pixels such as 6, or a share of the image such as 4%, found {value!r}"
            )
        return cls(percent=float(match[1]))

    def side(self, image_side: int) -> int:
        """Side in pixels on an image of `image_side` x `image_side` pixels; at least 1."""
        return self.pixels or max(1, math.isqrt(int(self.percent * image_side * image_side / 100 + 1e-9)))

    def __str__(self) -> str:
        return f"{self.pixels}x{self.pixels}" if self.pixels else f"{shortest(self.percent)}%"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {
            "description": "side of a square patch in pixels, or the share of the image that it covers: 4%",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}],
        }

    def plain(self) -> int | str:
        """As a suite writes it."""
        return self.pixels or str(self)
