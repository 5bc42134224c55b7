"""Jobs of the full checks: the attack of a white-box cell again, with other budgets and other gradients.

They are no cells: no row, no plot and no table shows them. Their outcomes decide V11, V12 and V14 of the cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from qpatchbench.attacks.base import Attack
from qpatchbench.importing import component_class
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, float_deployment
from qpatchbench.types import Size

AUDITED_IMAGES = 128
WHOLE, IDENTITY, SECOND = "whole", "identity", "second"

# Bumped when the runner itself changes what is found.
AUDIT_VERSIONS = {"ladder": 1, "gradients": 1, "second": 1}


@dataclass(frozen=True)
class Variant:
    """The patch of a cell, crafted in another way.

    Attributes:
        name: unique in its job.
        text: what is different, in words.
        patch: how it is crafted.
        less: whether it has a smaller budget than the cell's.
    """

    name: str
    text: str
    patch: CraftJob
    less: bool = False


@dataclass(frozen=True)
class AuditJob(Job):
    """Variants of one white-box cell, crafted and measured on a few images.

    Attributes:
        cell: the white-box cell, whose patch has one source.
        question: ladder: other budgets (V11); gradients: other gradients (V12); second: another implementation (V14).
    """

    cell: EvaluateJob
    question: Literal["ladder", "gradients", "second"]

    kind: ClassVar[str] = "audit"

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """What the cell's own patch is compared with."""
        made = {"ladder": _budgets, "gradients": _gradients, "second": _second}
        return tuple(made[self.question](self.cell.patch))

    def identity(self) -> dict[str, Any]:
        """The cell, the variants and the number of images."""
        return {
            "job": [self.question, AUDIT_VERSIONS[self.question]],
            "cell": self.cell.key,
            "variants": [[variant.name, variant.patch.key] for variant in self.variants],
            "images": AUDITED_IMAGES,
        }

    @property
    def label(self) -> str:
        """What it works on."""
        names = {"ladder": "other budgets", "gradients": "other gradients", "second": "a second implementation"}
        return f"{names[self.question]} for {self.cell.patch.label}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.cell,)

    @property
    def network(self) -> tuple[str, bool]:
        """The source of the patch."""
        return self.cell.patch.network

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        few = replace(sizes, evaluation=min(sizes.evaluation, AUDITED_IMAGES))
        return sum(variant.patch.cost(few) + few.evaluation * len(variant.patch.goals) for variant in self.variants)


def audit_jobs(cells: Sequence[EvaluateJob]) -> Iterator[AuditJob]:
    """The audits of every patch that follows gradients, on the network it was crafted on."""
    for cell in cells:
        own = cell.lineage == "same-network" and not str(cell.transformation) and len(cell.patch.sources) == 1
        if cell.control or not own or cell.patch.attack.access != "gradient":
            continue
        jobs = (AuditJob(cell, "ladder"), AuditJob(cell, "gradients"), AuditJob(cell, "second"))
        yield from (job for job in jobs if job.variants)


def _budgets(patch: CraftJob) -> Iterator[Variant]:
    """Fewer steps and restarts, which cost less than more of them and say the same; larger patches."""
    attack, side, image = patch.attack, patch.side, patch.facts["side"]
    for name, fewer in (("steps", 4), ("restarts", None)):
        now = getattr(attack, name, 1)
        count = max(1, now // fewer) if fewer else 1
        if name in type(attack).model_fields and count < now:
            yield from _variant(patch, name, f"{count} of {now} {name}", {name: count}, less=True)
    if attack.covers != "square" or side == image:
        return
    if 2 * side < image:
        size = Size(pixels=2 * side)
        yield from _variant(patch, "size", f"{size} pixels instead of {side}x{side}", {"size": size})
    # One untargeted patch for all images gives the same answer to each of them, which is right for some.
    if attack.kind == "per_image" or attack.targets != "untargeted":
        yield from _variant(patch, WHOLE, "a patch of the whole image", {"size": Size(percent=100.0)})


def _gradients(patch: CraftJob) -> Iterator[Variant]:
    """The straight-through gradient, that of the 32-bit path, and that of the identity; without the attack's own."""
    (source,) = patch.sources
    if source.bits.is_float:
        return
    if "backward" in type(patch.attack).model_fields:
        other = "network" if patch.attack.follows_float else "float"
        if other == "network" or float_deployment(source) is not None:
            yield from _variant(patch, other, other, {"backward": other})
    own = list(_variant(patch, IDENTITY, IDENTITY, {"backward": "network"})) if patch.attack.follows_float else []
    yield from own or [Variant(IDENTITY, IDENTITY, patch)]


def _second(patch: CraftJob) -> Iterator[Variant]:
    """Another implementation at the same fields, if the attack's own class names one: a subclass computes otherwise."""
    attack = patch.attack
    named = vars(type(attack)).get("second", "")
    if named:
        other = component_class(named, f"the second implementation of {attack.name}")
        made = other.model_validate(attack.model_dump())
        yield Variant(SECOND, "the second implementation", replace(patch, attack=made))


def own_gradient(attack: Attack) -> str:
    """Name of the gradient that an attack follows."""
    if attack.follows_scales:
        return "scales"
    return "float" if attack.follows_float else "network"


def _variant(
    patch: CraftJob, name: str, text: str, changes: Mapping[str, Any], *, less: bool = False
) -> Iterator[Variant]:
    """The patch of the same attack with other fields, if the attack admits them."""
    attack = patch.attack
    try:
        changed = type(attack).model_validate({**attack.model_dump(), **changes})
    except ValidationError:
        return
    yield Variant(name, text, replace(patch, attack=changed), less)
