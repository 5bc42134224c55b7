"""Value types that every part of qpatchbench speaks in. No behaviour beyond parsing and slicing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# A frozen, evaluable module at one bit-width: images (B, 3, H, W) float32 in [0, 1] -> logits (B, K).
Network: TypeAlias = Callable[["torch.Tensor"], "torch.Tensor"]

# Named terms of a training loss, scalars; the loop sums, logs and differentiates them.
Losses: TypeAlias = dict[str, "torch.Tensor"]

# Told how far a long computation is (0..1) and the figures worth showing, for example {"loss": 0.3}.
Progress: TypeAlias = Callable[[float, Mapping[str, float]], None]

FLOAT_BITS = 32
LOWEST_BITS, HIGHEST_BITS = 2, 16


@dataclass(frozen=True, order=True)
class Bits:
    """Weight and activation width in bits: 2..16, or 32 for float.

    Written `4` where both are equal and `w4a8` where they differ.
    """

    weight: int
    activation: int

    @classmethod
    def parse(cls, value: object) -> Bits:
        """Read 4, "4", "w4a8" or a `Bits`.

        >>> Bits.parse("w4a8")
        Bits(weight=4, activation=8)
        """
        if isinstance(value, Bits):
            return value
        match = re.fullmatch(r"(\d+)|w(\d+)a(\d+)", str(value)) if not isinstance(value, bool) else None
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
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls._plain)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {
            "description": "bit-width: 2..16, 32 for float, or w4a8 where weights and activations differ",
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^(\d+|w\d+a\d+)$"}],
        }

    def _plain(self) -> int | str:
        return self.weight if self.weight == self.activation else str(self)


FLOAT = Bits(FLOAT_BITS, FLOAT_BITS)


@dataclass(frozen=True)
class Targeted:
    """The patch shall make the network answer `class_id`."""

    class_id: int

    def __str__(self) -> str:
        return str(self.class_id)


@dataclass(frozen=True)
class Untargeted:
    """The patch shall make the network answer anything but the label."""

    def __str__(self) -> str:
        return "untargeted"


Goal: TypeAlias = Targeted | Untargeted


def parse_goal(text: str) -> Goal:
    """Invert `str(goal)`.

    >>> parse_goal("3")
    Targeted(class_id=3)
    """
    return Untargeted() if text == "untargeted" else Targeted(int(text))


@dataclass(frozen=True)
class Placement:
    """Where a patch lies on each of B images.

    Attributes:
        rows, columns: (B,) int64, top-left pixel of the unrotated patch, inclusive of the last position.
        angles: (B,) float32, degrees, counter-clockwise about the patch centre.
        scales: (B,) float32, 1 = native size.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    angles: torch.Tensor
    scales: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | torch.Tensor) -> Placement:
        return Placement(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> Placement:
        """Copy to `device`."""
        return Placement(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class ImageSet:
    """N labelled images.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        labels: (N,) int64.
        ids: N names, unique in their dataset and stable between machines.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice) -> ImageSet:
        return ImageSet(self.pixels[index], self.labels[index], self.ids[index])

    def to(self, device: torch.device) -> ImageSet:
        """Copy to `device`."""
        return ImageSet(self.pixels.to(device), self.labels.to(device), self.ids)


@dataclass(frozen=True)
class Patch:
    """What an attack returns.

    Attributes:
        textures: (P, 3, h, w) float32 in [0, 1].
        masks: (P, 1, h, w) float32 in {0, 1}.
        goals: one per texture of a universal patch. A per-image patch holds, goal after goal, one texture
            per image, so that P = len(goals) * N.
        history: mean loss per recorded step; the last entry belongs to the last step.
    """

    textures: torch.Tensor
    masks: torch.Tensor
    goals: tuple[Goal, ...]
    history: tuple[float, ...] = ()

    @property
    def height(self) -> int:
        """Rows of the patch, pixels."""
        return int(self.textures.shape[-2])

    @property
    def width(self) -> int:
        """Columns of the patch, pixels."""
        return int(self.textures.shape[-1])

    def for_goal(self, index: int) -> Patch:
        """The textures of one goal: one (universal), or one per image."""
        size = len(self.textures) // len(self.goals)
        part = slice(index * size, (index + 1) * size)
        return Patch(self.textures[part], self.masks[part], (self.goals[index],))


def silent(fraction: float, figures: Mapping[str, float]) -> None:
    """A `Progress` that tells nobody."""


def distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    """The values without repetition, in order of first appearance."""
    return tuple(dict.fromkeys(values))
