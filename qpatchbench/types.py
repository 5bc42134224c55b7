"""Value types that every part of qpatchbench speaks in, with no behaviour beyond parsing and slicing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

import torch
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

# A frozen, evaluable module at one bit-width: images (B, 3, H, W) float32 in [0, 1] -> logits (B, K).
Network: TypeAlias = Callable[["torch.Tensor"], "torch.Tensor"]

# Named terms of a training loss, scalars; the loop sums, logs and differentiates them.
Losses: TypeAlias = dict[str, "torch.Tensor"]


class Observed(NamedTuple):
    """A forward pass with what was seen inside.

    Attributes:
        logits: (B, K).
        features: layer name -> its output as the next layer computes with it, (B, C, h, w) of a convolution: after
            BatchNorm, nonlinearity and the activation quantizer.
    """

    logits: torch.Tensor
    features: Mapping[str, torch.Tensor]


# Told how far a long computation is (0..1) and the figures worth showing, for example {"loss": 0.3}.
Progress: TypeAlias = Callable[[float, Mapping[str, float]], None]


@runtime_checkable
class Randomized(Protocol):
    """A network that draws at random how it answers."""

    @property
    def expected(self) -> Network:
        """What it answers on average, exactly; attacks by gradient follow this one."""

    def restart(self, seed: int) -> None:
        """Draw from here on as `seed` says."""


FLOAT_BITS = 32
LOWEST_BITS, HIGHEST_BITS = 2, 16


class Written:
    """A value that a suite writes as one number or word; a field of a component may be one."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what `plain` writes, or such a value.

        Raises:
            ValueError: it is neither.
        """
        raise NotImplementedError

    def plain(self) -> int | str:
        """As a suite writes it."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.plain)
        )


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
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {
            "description": "bit-width: 2..16, 32 for float, or w4a8 where weights and activations differ",
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^(\d+|w\d+a\d+)$"}],
        }

    def plain(self) -> int | str:
        """As a suite writes it."""
        return self.weight if self.weight == self.activation else str(self)


FLOAT = Bits(FLOAT_BITS, FLOAT_BITS)


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
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", str(value))
        if match is None or not 0 < float(match[1]) <= 100:
            raise ValueError(
                f"expected a side in pixels such as 6, or a share of the image such as 4%, found {value!r}"
            )
        return cls(percent=float(match[1]))

    def side(self, image_side: int) -> int:
        """Side in pixels on an image of `image_side` x `image_side` pixels; at least 1."""
        return self.pixels or max(1, math.isqrt(int(self.percent * image_side * image_side / 100 + 1e-9)))

    def __str__(self) -> str:
        return f"{self.pixels}x{self.pixels}" if self.pixels else f"{self.percent:g}%"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return {
            "description": "side of a square patch in pixels, or the share of the image that it covers: 4%",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}],
        }

    def plain(self) -> int | str:
        """As a suite writes it."""
        return self.pixels or str(self)


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

    @classmethod
    def concatenated(cls, parts: Sequence[Placement]) -> Placement:
        """All placements in one, in order."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def to(self, device: torch.device) -> Placement:
        """Copy to `device`."""
        return Placement(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, order=True)
class Transformation:
    """How a finished patch is moved before it is measured.

    Attributes:
        rows, columns: shift in pixels; positions wrap around the last one that keeps the patch inside the image.
        angle: further rotation, degrees.
    """

    rows: int = 0
    columns: int = 0
    angle: float = 0.0

    def __str__(self) -> str:
        shift = f"shift {self.rows},{self.columns}" if self.rows or self.columns else ""
        return " ".join(part for part in (shift, f"rotation {self.angle:g}" if self.angle else "") if part)


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

    @property
    def side(self) -> int:
        """Height and width, pixels."""
        return int(self.pixels.shape[-1])

    def __getitem__(self, index: slice) -> ImageSet:
        return ImageSet(self.pixels[index], self.labels[index], self.ids[index])

    def chosen(self, index: torch.Tensor) -> ImageSet:
        """Some of the images, by position (M,) int64 or by a mask (N,) bool."""
        places = (index.nonzero().flatten() if index.dtype == torch.bool else index).cpu()
        own = places.to(self.pixels.device)
        return ImageSet(self.pixels[own], self.labels[own], tuple(self.ids[place] for place in places.tolist()))

    def to(self, device: torch.device) -> ImageSet:
        """Copy to `device`."""
        return ImageSet(self.pixels.to(device), self.labels.to(device), self.ids)


@dataclass(frozen=True)
class Stage:
    """One of the attacks that a compound attack runs in turn, each on the images that are still unbroken.

    Attributes:
        attack: its name.
        access: what it may see of the network.
        attacked, broken: numbers of images, over all goals; images that were wrong when clean are not attacked.
    """

    attack: str
    access: str
    attacked: int
    broken: int


@dataclass(frozen=True)
class Patch:
    """What an attack returns.

    Attributes:
        textures: (P, 3, h, w) float32 in [0, 1].
        masks: (P, 1, h, w) float32 in {0, 1}.
        goals: one per texture of a universal patch. A per-image patch holds, goal after goal, one texture
            per image, so that P = len(goals) * N.
        history: mean loss per recorded step; the last entry belongs to the last step.
        placement: P places, of a per-image attack that chooses where its patches lie; None: where it was told to.
        queries: (P,) int64, images a score-based attack showed to the network until it first succeeded, or in all
            where it never did; None where queries are no cost.
        stages: what each part of a compound attack did.
    """

    textures: torch.Tensor
    masks: torch.Tensor
    goals: tuple[Goal, ...]
    history: tuple[float, ...] = ()
    placement: Placement | None = None
    queries: torch.Tensor | None = None
    stages: tuple[Stage, ...] = ()

    def to(self, device: torch.device) -> Patch:
        """Copy textures and masks, and places if there are any, to `device`."""
        placement = None if self.placement is None else self.placement.to(device)
        return replace(self, textures=self.textures.to(device), masks=self.masks.to(device), placement=placement)

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
        return Patch(
            self.textures[part],
            self.masks[part],
            (self.goals[index],),
            placement=None if self.placement is None else self.placement[part],
            queries=None if self.queries is None else self.queries[part],
        )


def silent(fraction: float, figures: Mapping[str, float]) -> None:
    """A `Progress` that tells nobody."""


@dataclass(frozen=True)
class CraftTask:
    """What an attack is asked for.

    Attributes:
        networks: frozen sources, each images (B, 3, H, W) float32 in [0, 1] -> logits (B, K). One, except for an
            attack that takes several.
        goals: what the patches shall achieve.
        crafting: images to learn from, never those that the patch is measured on.
        generator: CPU generator, the only source of randomness.
        siblings: the same backbone at the other bit-widths, for an attack that wants them.
        attacked: the images that a per-image patch is for; None for a universal one.
        placement: where a per-image patch lies unless its attack chooses; None for a universal one, which is crafted
            for every place.
        seeds: (N,) int64, one per attacked image, where a compound attack hands on some of its images; else None.
        progress: told the fraction done and current figures.
    """

    networks: tuple[Network, ...]
    goals: tuple[Goal, ...]
    crafting: ImageSet
    generator: torch.Generator
    siblings: tuple[Network, ...] = ()
    attacked: ImageSet | None = None
    placement: Placement | None = None
    seeds: torch.Tensor | None = None
    progress: Progress = silent

    @property
    def network(self) -> Network:
        """The only network."""
        if len(self.networks) != 1:
            raise ValueError(f"expected one network to craft on, found {len(self.networks)}")
        return self.networks[0]

    @property
    def images(self) -> ImageSet:
        """The images to work on: those attacked one by one, else those to learn from."""
        return self.crafting if self.attacked is None else self.attacked

    @property
    def goal(self) -> Goal:
        """The only goal."""
        if len(self.goals) != 1:
            raise ValueError(f"expected one goal at a time, found {len(self.goals)}")
        return self.goals[0]

    def require_places(self) -> tuple[ImageSet, Placement]:
        """The attacked images and where the patches lie on them.

        Raises:
            ValueError: the task is for a universal patch.
        """
        if self.attacked is None or self.placement is None:
            raise ValueError("expected the images to attack and a placement for each, found a task without them")
        return self.attacked, self.placement

    def part(self, index: int, count: int, **changes: Any) -> CraftTask:  # noqa: ANN401 (fields of a dataclass)
        """The same task with `changes`, reporting as part `index` of `count` equal parts."""

        def overall(fraction: float, figures: Mapping[str, float]) -> None:
            self.progress((index + fraction) / count, figures)

        return replace(self, progress=overall, **changes)


def distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    """The values without repetition, in order of first appearance."""
    return tuple(dict.fromkeys(values))
