"""What a suite may say: the typed form of a suite file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from qpatchbench.attacks.base import Attack
from qpatchbench.data.base import DatasetSource
from qpatchbench.defenses.base import Defense
from qpatchbench.models.base import ModelSource
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits


class Section(BaseModel):
    """Base of the plain sections of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Transfer(Section):
    """Which source networks attack each target network."""

    sources: tuple[Literal["same", "all"] | Bits, ...] = Field(
        default=(FLOAT, "same"),
        min_length=1,
        description="bit-widths to craft on; same = the target itself (white box), all = every bit-width of its "
        "quantizer. A width applies to the quantizers that list it; 32 applies to all",
    )
    architectures: Literal["same", "all"] = Field(
        default="same", description="all: patches from every other model of the suite are evaluated too"
    )
    defenses: Literal["same", "all"] = Field(
        default="same", description="all: patches from networks trained with every other defense are evaluated too"
    )


class Evaluation(Section):
    """How cells are measured."""

    images: int = Field(default=10000, gt=0, description="evaluation images, class balanced")
    batch_size: int = Field(default=500, gt=0, description="images per forward pass; does not change results")
    placement_seed: int = Field(default=0, ge=0, description="seed of the placements, which all cells share")
    checks: Literal["off", "fast", "full"] = Field(default="fast", description="validity checks to run")


class Filter(Section):
    """A set of cells: those that agree with every key given. Names are labels as shown in results."""

    model: tuple[str, ...] | str | None = Field(default=None, description="target model")
    defense: tuple[str, ...] | str | None = Field(default=None, description="target defense")
    quantizer: tuple[str, ...] | str | None = Field(default=None, description="quantizer by label or mode")
    target_bits: tuple[Bits, ...] | Bits | None = Field(default=None, description="target bit-widths")
    attack: tuple[str, ...] | str | None = Field(default=None, description="attack")
    source_model: tuple[str, ...] | str | None = Field(default=None, description="source model")
    source_defense: tuple[str, ...] | str | None = Field(default=None, description="source defense")
    source_bits: tuple[Bits, ...] | Bits | None = Field(default=None, description="source bit-widths")

    def agrees(self, facts: dict[str, object], *, unknown: bool) -> bool:
        """Whether `facts` agree with every key given; a key that `facts` lacks counts as `unknown`."""
        for name in type(self).model_fields:
            wanted = getattr(self, name)
            if wanted is None:
                continue
            if name not in facts:
                if not unknown:
                    return False
                continue
            if not set(_several(facts[name])) & set(_several(wanted)):
                return False
        return True


def _several(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


class Suite(Section):
    """One experiment, completely."""

    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name; results/<name> by default")
    description: str = Field(default="", description="what the suite is for, shown in the report")
    dataset: SerializeAsAny[DatasetSource] = Field(description="where images come from")
    models: tuple[SerializeAsAny[ModelSource], ...] = Field(min_length=1, description="architectures")
    training: TrainingSettings = Field(default=TrainingSettings(), description="training from scratch")
    finetuning: TrainingSettings | None = Field(
        default=None,
        description="if given, defenses start from the model's float weights and follow this schedule",
    )
    defenses: tuple[SerializeAsAny[Defense], ...] = Field(min_length=1, description="how weights are learned")
    quantizers: tuple[SerializeAsAny[Quantizer], ...] = Field(min_length=1, description="how networks are deployed")
    attacks: tuple[SerializeAsAny[Attack], ...] = Field(min_length=1, description="how patches are made")
    transfer: Transfer = Field(default=Transfer(), description="which patches meet which networks")
    evaluation: Evaluation = Field(default=Evaluation(), description="how cells are measured")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="seeds of training and crafting")
    include: tuple[Filter, ...] = Field(default=(), description="if given, only cells that agree with one of these")
    exclude: tuple[Filter, ...] = Field(default=(), description="no cell that agrees with one of these")
    limit: int | None = Field(default=None, gt=0, description="evaluate at most this many images; marks it partial")

    def keeps(self, **facts: object) -> bool:
        """Whether include and exclude keep the cells of which `facts` are known."""
        if any(item.agrees(facts, unknown=False) for item in self.exclude):
            return False
        return not self.include or any(item.agrees(facts, unknown=True) for item in self.include)

    def resolved(self) -> dict[str, Any]:
        """The suite with every default filled in, as JSON-ready data."""
        return self.model_dump(mode="json")


# Sections that hold components: section -> (registry name, whether it is a list).
COMPONENT_SECTIONS = {
    "dataset": ("datasets", False),
    "models": ("models", True),
    "defenses": ("defenses", True),
    "quantizers": ("quantizers", True),
    "attacks": ("attacks", True),
}
