"""The contract of attacks: a task in, a patch out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator

from qpatchbench.component import Component
from qpatchbench.types import CraftTask, Goal, Patch, Size, Targeted, Untargeted


class Attack(Component, ABC):
    """Makes a patch from source networks and images. It returns the patch; the harness measures it.

    Attributes:
        kind: universal, one texture per goal for every image and place; or per_image.
        access: what it may see: gradient, scores (logits without a gradient, each image counted), or none.
        sources: one source network; any number of them; or only several at once (an ensemble).
        learns: whether it looks at the crafting images; an attack that does not gets none.
        wants_siblings: whether it also uses the same backbone at the other bit-widths.
        covers: a square, or the whole image by small changes; the latter has no size to sweep and no random control.
        needs_attention: whether it works on vision transformers only.
        external: whether its patches were made elsewhere and are only read: no network of the suite is their source.
        from_scores: name of the attack that is its part without gradients, for networks that give none. Empty: there is
            none.
        second: module:Class of a second, independent implementation with the same fields, with which V14 compares this
            very class; not inherited. Empty: there is none.
    """

    kind: ClassVar[Literal["universal", "per_image"]] = "universal"
    access: ClassVar[Literal["gradient", "scores", "none"]] = "gradient"
    sources: ClassVar[Literal["one", "any", "several"]] = "one"
    learns: ClassVar[bool] = True
    wants_siblings: ClassVar[bool] = False
    covers: ClassVar[Literal["square", "image"]] = "square"
    needs_attention: ClassVar[bool] = False
    external: ClassVar[bool] = False
    from_scores: ClassVar[str] = ""
    second: ClassVar[str] = ""

    size: Size = Field(description="side of the square patch in pixels, or the share of the image it covers: 4%")
    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default="all", description="classes to steer towards: all, a list of class ids, or untargeted"
    )

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(targets, tuple):
            repeated = {str(target) for target in targets if targets.count(target) > 1}
            if repeated:
                raise ValueError(f"expected every class once, found {', '.join(sorted(repeated))} repeatedly")
            if not targets:
                raise ValueError("expected at least one class, found an empty list")
        return targets

    def goals(self, num_classes: int) -> tuple[Goal, ...]:
        """The goals that `targets` names, one patch each."""
        if self.targets == "untargeted":
            return (Untargeted(),)
        classes = range(num_classes) if self.targets == "all" else self.targets
        return tuple(Targeted(class_id) for class_id in classes)

    @property
    def passport(self) -> dict[str, str]:
        """What is known of patches that were made elsewhere, for the manifest: origin and licence."""
        return {}

    @property
    def follows_float(self) -> bool:
        """Whether gradients are those of the 32-bit path of the same weights."""
        return False

    @property
    def follows_scales(self) -> bool:
        """Whether gradients also pass through activation scales that are set at run time."""
        return False

    def passes(self) -> float:
        """Forward passes per image and goal that crafting takes, a backward pass counted as two; for estimates only."""
        return 3.0 * float(getattr(self, "steps", 0)) * float(getattr(self, "restarts", 1)) + float(
            getattr(self, "queries", 0)
        )

    def require_network(self, network: torch.nn.Module, image: torch.Tensor) -> None:  # noqa: B027
        """Refuse a network that it cannot attack, before anything is trained; by default none.

        Args:
            network: float, frozen, with arbitrary weights.
            image: (1, 3, H, W) float32 in [0, 1].

        Raises:
            AttackError: says what was expected and what was found.
        """

    @abstractmethod
    def craft(self, task: CraftTask) -> Patch:
        """Craft one texture per goal (universal), or per goal and attacked image (per_image).

        Nothing that the task holds is changed. A score-based attack gets networks that give no gradient.

        Raises:
            AttackError: a network's output is not finite.
        """


class GradientAttack(Attack):
    """An attack that follows a gradient."""

    backward: Literal["network", "float", "scales"] = Field(
        default="network",
        description="whose gradient is followed: the network's own; that of the 32-bit path of the same weights behind "
        "the network's own output (BPDA, Athalye et al. 2018), for networks whose gradient is masked; or, with scales, "
        "the network's own and through the activation scales that dynamic quantization takes from each image",
    )

    @property
    def follows_float(self) -> bool:
        """Whether gradients are those of the 32-bit path of the same weights."""
        return self.backward == "float"

    @property
    def follows_scales(self) -> bool:
        """Whether gradients also pass through activation scales that are set at run time."""
        return self.backward == "scales"
