"""The typed form of a suite file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializeAsAny

from qpatchbench.attacks.base import Attack
from qpatchbench.data.base import DatasetSource
from qpatchbench.defenses.base import Defense
from qpatchbench.labels import checked_lines
from qpatchbench.models.base import ModelSource
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Size, Transformation, distinct


class Section(BaseModel):
    """Base of the plain sections of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Transfer(Section):
    """Which source networks attack each target network."""

    sources: tuple[Literal["same", "all", "ensemble", "other-models"] | Bits, ...] = Field(
        default=(FLOAT, "same"),
        min_length=1,
        description="bit-widths to craft on; same = the target itself (white box), all = every bit-width of its "
        "quantizer, ensemble = all bit-widths of the target's backbone at once, other-models = the 32-bit networks of "
        "all other models at once. A width applies to the quantizers that list it; 32 applies to all. The last two "
        "apply to attacks that can be crafted on several networks",
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


class PatchPool(Section):
    """Patches crafted once on every model's undefended network: some to train on, others kept from training.

    Seen and unseen share no attack, no size and no bit-width they were crafted at; both are measured on every network.
    """

    seen: tuple[SerializeAsAny[Attack], ...] = Field(
        min_length=1, description="universal attacks whose patches, crafted at 32 bits, are trained on"
    )
    unseen: tuple[SerializeAsAny[Attack], ...] = Field(
        default=(), description="attacks whose patches nobody trains on; crafted as unseen_quantizer says"
    )
    unseen_quantizer: SerializeAsAny[Quantizer] | None = Field(
        default=None, description="how the undefended network is quantized for the unseen, at bits below 32"
    )
    repeats: int = Field(
        default=1, gt=0, description="times every attack is run for training, with other seeds; the first is measured"
    )

    @property
    def unseen_bits(self) -> tuple[Bits, ...]:
        """Bit-widths at which the unseen patches are crafted."""
        return self.unseen_quantizer.bits if self.unseen_quantizer is not None else ()


class Sweep(Section):
    """Variations beside the patch as its attack states it, one at a time: its size, or the finished patch moved."""

    sizes: tuple[Size, ...] = Field(default=(), description="further sizes at which every patch attack is crafted")
    shifts: tuple[tuple[int, int], ...] = Field(
        default=(),
        description="further places: every patch moved by (rows, columns) pixels, wrapping around inside the image",
    )
    rotations: tuple[float, ...] = Field(
        default=(), description="further angles: every patch turned by so many degrees about its centre"
    )


class Analysis(Section):
    """What else is measured, beside patches on networks."""

    costs: str | None = Field(
        default=None, description="a defense of the suite; time and memory of every other's training relative to it"
    )
    similarity: bool = Field(
        default=False, description="how similar features and input gradients of every backbone's bit-widths are"
    )
    fewer_bits: bool = Field(
        default=False, description="costs of networks with several bit-widths also with fewer of them active"
    )
    maps: int = Field(
        default=0,
        ge=0,
        description="evaluation images of which feature maps, input gradients and Grad-CAM are kept and drawn, and how "
        "well the bit-widths agree in them is measured; 0 for none",
    )
    images: int = Field(default=256, gt=0, description="evaluation images on which similarity and maps are measured")


class Filter(Section):
    """A set of cells: those that agree with every key given. Names are labels as shown in results."""

    model: tuple[str, ...] | str | None = Field(default=None, description="target model")
    defense: tuple[str, ...] | str | None = Field(default=None, description="target defense")
    quantizer: tuple[str, ...] | str | None = Field(default=None, description="quantizer by label or mode")
    preprocessor: tuple[str, ...] | str | None = Field(
        default=None, description="what stands before the target network; none is the bare network"
    )
    target_bits: tuple[Bits, ...] | Bits | None = Field(default=None, description="target bit-widths")
    attack: tuple[str, ...] | str | None = Field(default=None, description="attack")
    source_model: tuple[str, ...] | str | None = Field(default=None, description="source model")
    source_defense: tuple[str, ...] | str | None = Field(default=None, description="source defense")
    source_bits: tuple[Bits | Literal["ensemble"], ...] | Bits | Literal["ensemble"] | None = Field(
        default=None, description="source bit-widths, or ensemble for patches crafted on several networks"
    )
    seed: tuple[int, ...] | int | None = Field(default=None, description="seed of training and crafting")

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
    description: Annotated[str, AfterValidator(checked_lines)] = Field(
        default="", description="what the suite is for, shown in the report"
    )
    dataset: SerializeAsAny[DatasetSource] = Field(description="where images come from")
    models: tuple[SerializeAsAny[ModelSource], ...] = Field(min_length=1, description="architectures")
    training: TrainingSettings = Field(default=TrainingSettings(), description="training from scratch")
    finetuning: TrainingSettings | None = Field(
        default=None,
        description="if given, defenses start from the model's float weights and follow this schedule",
    )
    defenses: tuple[SerializeAsAny[Defense], ...] = Field(min_length=1, description="how weights are learned")
    quantizers: tuple[SerializeAsAny[Quantizer], ...] = Field(min_length=1, description="how networks are deployed")
    preprocessors: tuple[SerializeAsAny[Preprocessor], ...] = Field(
        default=(),
        description="what stands before the target networks, each in turn; none is the bare network, and all there is "
        "by default. Patches of the source `same` are crafted through the preprocessor (an adaptive attack), those of "
        "all other sources on bare networks, by an attacker who does not know of it",
    )
    attacks: tuple[SerializeAsAny[Attack], ...] = Field(min_length=1, description="how patches are made")
    transfer: Transfer = Field(default=Transfer(), description="which patches meet which networks")
    pool: PatchPool | None = Field(default=None, description="patches to train on, and patches kept from training")
    sweep: Sweep = Field(default=Sweep(), description="sizes, shifts and rotations to try beside those stated")
    analysis: Analysis = Field(default=Analysis(), description="what else is measured of the networks")
    evaluation: Evaluation = Field(default=Evaluation(), description="how cells are measured")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="seeds of training and crafting")
    include: tuple[Filter, ...] = Field(default=(), description="if given, only cells that agree with one of these")
    exclude: tuple[Filter, ...] = Field(default=(), description="no cell that agrees with one of these")
    limit: int | None = Field(default=None, gt=0, description="evaluate at most this many images; marks it partial")
    scales: Mapping[str, Mapping[str, Any]] = Field(
        default={},
        exclude=True,  # one of them is chosen when the file is read; results do not depend on the others
        description="the same experiment for smaller machines: name -> key.path -> value, chosen with --scale NAME",
    )

    def keeps(self, **facts: object) -> bool:
        """Whether include and exclude keep the cells of which `facts` are known."""
        if any(item.agrees(facts, unknown=False) for item in self.exclude):
            return False
        return not self.include or any(item.agrees(facts, unknown=True) for item in self.include)

    def sized_attacks(self) -> tuple[Attack, ...]:
        """Every attack at its own size and at those of the sweep; an attack on the whole image has but one."""
        sized = [
            (attack, *(attack.model_copy(update={"size": size}) for size in self.sweep.sizes))
            if attack.covers == "square"
            else (attack,)
            for attack in self.attacks
        ]
        return distinct([attack for group in sized for attack in group])

    def transformations(self, attack: Attack) -> tuple[Transformation, ...]:
        """How the patches of `attack` are moved before they are measured; the first is not at all.

        One thing is varied at a time: patches of the sweep's sizes stay where they are.
        """
        still = Transformation()
        if attack.covers == "image" or attack not in self.attacks:
            return (still,)
        shifts = [Transformation(rows, columns) for rows, columns in self.sweep.shifts]
        return distinct([still, *shifts, *(Transformation(angle=angle) for angle in self.sweep.rotations)])

    def resolved(self) -> dict[str, Any]:
        """The suite with every default filled in, as JSON-ready data."""
        return self.model_dump(mode="json")


# Where components stand in a suite: path -> (registry name, whether it is a list).
COMPONENT_PLACES: dict[tuple[str, ...], tuple[str, bool]] = {
    ("dataset",): ("datasets", False),
    ("models",): ("models", True),
    ("defenses",): ("defenses", True),
    ("quantizers",): ("quantizers", True),
    ("preprocessors",): ("preprocessors", True),
    ("attacks",): ("attacks", True),
    ("pool", "seen"): ("attacks", True),
    ("pool", "unseen"): ("attacks", True),
    ("pool", "unseen_quantizer"): ("quantizers", False),
}
