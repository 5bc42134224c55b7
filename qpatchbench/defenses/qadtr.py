"""QADT-R (Guesmi, Ouni, Shafique 2025, Breaking the limits of quantization-aware defenses, arXiv 2503.07058).

Every step draws a bit-width (section 3.3.2, DBWT), makes a patch for the second half of the batch inside the quantized
network (3.3.1, A-QAPA), minimises the cross-entropy of the clean and of the patched half, and with probability one half
changes the gradients (3.3.3, GIR). The paper's three ablations, tables 13 to 16:

    {name: qadtr, label: without A-QAPA, patches: float}                  patches from the float network, not quantized
    {name: qadtr, label: without DBWT, switching: fixed}                  one network per width, always at that width
    {name: qadtr, label: without GIR, gradient_inconsistency: none}       gradients as they are

It calls the first "adversarial patches generated without simulated quantization" and the second training "at a fixed
bit-width". With `patches: none, switching: joint, gradient_inconsistency: none` this is `qat`. There is no public code,
and the paper leaves much open. Taken here:

- equation 2, one width per training step for weights and activations together, not table 17's levels of 20 epochs,
  five of which exceed its 50 epochs (`switching: cycle`), and not two independent widths (`draw: independent`);
- only the patch is quantized, as the text says, not the whole image, as equation 1 does (`quantized: image`);
- patch budget, size and share of patched images are not given. 10 steps of 0.05 in eval mode and 4 % (on CIFAR the
  6 x 6 pixels of the paper's evaluation) are choices of ours; one half patched, and both halves in one pass, is as in
  Rao, Stutz, Schiele 2020 (arXiv 2005.02313);
- equations 4 and 5 act on the gradient of every parameter tensor at widths below 32. That is training with noisy
  gradients: it does not hide anything from a white-box attacker. gamma is not given (1 here).

Table 17's "variance of bit-width switching noise" appears in no equation and is left out.
"""  # noqa: D214 (a list of suite lines)

from __future__ import annotations

import math
from itertools import product
from typing import ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.defenses.base import Batch, Defense, Step, SwitchableNetwork
from qpatchbench.errors import TrainingError
from qpatchbench.ops.crafting.quantized_patches import (
    Ascent,
    ascended_texture,
    follow_gradient,
    paste_quantized,
    random_places,
)
from qpatchbench.ops.training.gradient_inconsistency import Inconsistency, inconsistent
from qpatchbench.types import FLOAT, Bits, Losses, Size


class Qadtr(Defense):
    """Adversarial training with patches at random bit-widths and with perturbed gradients."""

    version: ClassVar[int] = 2
    calibrates: ClassVar[bool] = True  # only `cycle` adds widths

    patches: Literal["quantized", "float", "none"] = Field(
        default="quantized",
        description="A-QAPA: patches made inside the quantized network and quantized; made on the float network; none",
    )
    size: Size = Field(
        default=Size(percent=4.0), description="side of the square patch in pixels, or the share of the image it covers"
    )
    steps: int = Field(default=10, ge=0, description="steps that make a patch; 0 trains on noise")
    step_size: float = Field(default=0.05, gt=0, le=1, description="change of a pixel of the patch per step")
    quantized: Literal["patch", "image"] = Field(
        default="patch", description="what equation 1 quantizes: the patch, or the patched image"
    )
    switching: Literal["random", "cycle", "joint", "fixed"] = Field(
        default="random",
        description="DBWT: random, one width per step; cycle, one after another from the highest, for equal shares of "
        "the training, after which the BatchNorm of earlier ones is out of date unless shared; joint, all in every "
        "step; fixed, one network per width",
    )
    draw: Literal["tied", "independent"] = Field(
        default="tied",
        description="random widths of weights and activations: equal, or independent, for which the quantizer's bits "
        "must list every pair, such as w4a8",
    )
    gradient_inconsistency: Literal["parameters", "patches", "none"] = Field(
        default="parameters",
        description="GIR, equations 4 and 5: changes the gradients of the parameters, of the patches while they are "
        "made (at each step of theirs with probability `share`), or none",
    )
    share: float = Field(default=0.5, ge=0, le=1, description="f_g: share of the steps whose gradients are changed")
    timing: Literal["random", "regular"] = Field(
        default="random", description="which training steps: each with probability `share`, or evenly spaced ones"
    )
    strength: float = Field(default=0.1, ge=0, description="alpha: size of the change of a gradient")
    parallel: float = Field(default=1.0, description="beta: size of its part along the gradient")
    noise: float = Field(default=1.0, ge=0, description="gamma: size of its random part; not given in the paper")
    noise_deviation: float = Field(default=0.05, ge=0, description="sigma: standard deviation of the noise")
    noise_scaling: Literal["literal", "relative"] = Field(
        default="literal", description="noise as written, or times the root mean square of the gradient"
    )
    epsilon: float = Field(default=1e-5, ge=0, description="keeps the division by the norm stable")
    epsilon_at: Literal["denominator", "sum"] = Field(
        default="denominator", description="epsilon in the denominator, or added to the result as equation 5 is printed"
    )
    norm: Literal["tensor", "network"] = Field(
        default="tensor", description="norm of each parameter tensor, or of all gradients together"
    )

    def bit_groups(self, bits: tuple[Bits, ...]) -> tuple[tuple[Bits, ...], ...]:
        """One group of all, or one each where the width is fixed.

        Raises:
            TrainingError: the bits do not go with `draw`, or lack the float network that `patches` asks for.
        """
        if self.switching == "random":
            self._require_pairs(bits)
        groups = tuple((width,) for width in bits) if self.switching == "fixed" else (bits,)
        lacking = next((group for group in groups if FLOAT not in group), None)
        if self.patches == "float" and lacking is not None:
            raise TrainingError(
                f"{self.title}: patches: float needs 32 among the bits that share weights, found "
                f"{', '.join(map(str, lacking))}; add 32 to the quantizer's bits and do not use switching: fixed"
            )
        return groups

    def active_bits(self, epoch_fraction: float, bits: tuple[Bits, ...]) -> tuple[Bits, ...]:
        """All; of a cycle those whose turn has come, from the highest on."""
        if self.switching != "cycle":
            return bits
        # A whole number of shares must not round down to the share before.
        reached = math.floor(epoch_fraction * len(bits) + 1e-9) + 1
        return tuple(sorted(bits, reverse=True)[:reached])

    def baseline(self) -> Defense:
        """No patch, no changed gradient, all widths in every step."""
        changes = {"patches": "none", "gradient_inconsistency": "none", "switching": "joint"}
        return type(self).model_validate({**self.model_dump(), **changes})

    @property
    def least_batch(self) -> int:
        """Two: half of it is patched."""
        return 1 if self.patches == "none" else 2

    def passes(self, bits: tuple[Bits, ...]) -> float:
        """Training at the widths of a step, and the patch steps on half the batch."""
        trained = 3.0 * (len(bits) if self.switching == "joint" else 1)
        return trained + (0.0 if self.patches == "none" else 1.5 * self.steps)

    def graphs_at_once(self, bits: tuple[Bits, ...]) -> int:
        """Those of the widths of a step."""
        return len(bits) if self.switching == "joint" else 1

    def drawn_bits(self, step: Step) -> tuple[Bits, ...]:
        """The bit-widths that the step trains: one, or with `joint` all."""
        if self.switching == "random":
            return (step.bits[int(torch.randint(len(step.bits), (), generator=step.draws("bits")))],)
        return (min(step.bits),) if self.switching == "cycle" else step.bits

    def loss(self, network: SwitchableNetwork, batch: Batch, step: Step) -> Losses:
        """Mean cross-entropy of the clean half and of the patched half, each counted half.

        Raises:
            TrainingError: the batch has no second half, or the patch does not fit.
        """
        cross_entropy, widths = torch.nn.functional.cross_entropy, self.drawn_bits(step)
        if self.patches == "none":
            terms = [cross_entropy(network.at(bits)(batch.images), batch.labels) for bits in widths]
            return {"clean": torch.stack(terms).mean()}
        clean, attacked = batch.halves()
        if not len(attacked.labels):
            raise TrainingError(f"{self.title}: expected a batch_size of at least 2, half of it patched, found 1")
        texture = self.texture(network, attacked, step)
        placement = random_places(attacked.images, texture.shape[-1], step.draws("place"))
        halves = []
        for bits in widths:
            part = self.quantized if self.patches == "quantized" else "nothing"
            patched = paste_quantized(attacked.images, texture, placement, bits, part)
            logits = network.at(bits)(torch.cat([clean.images, patched]))
            middle = len(clean.labels)
            pair = cross_entropy(logits[:middle], clean.labels), cross_entropy(logits[middle:], attacked.labels)
            halves.append(torch.stack(pair) / 2)
        clean_term, patched_term = torch.stack(halves).mean(dim=0)
        return {"clean": clean_term, "patched": patched_term}

    def texture(self, network: SwitchableNetwork, batch: Batch, step: Step) -> torch.Tensor:
        """The step's patch (1, 3, h, w) in [0, 1], before it is quantized for training."""
        quantized = self.patches == "quantized"
        ascent = Ascent(
            self.size.side(batch.images.shape[-1]), self.steps, self.step_size,
            step.bits if quantized else (FLOAT,), self.quantized if quantized else "nothing",
        )  # fmt: skip
        noise, chance = step.draws("patch gradient"), step.draws("changed patch gradients")

        def changed(gradient: torch.Tensor, bits: Bits) -> torch.Tensor:
            if bits.is_float or float(torch.rand((), generator=chance)) >= self.share:
                return gradient
            return inconsistent([gradient], self._inconsistency, noise)[0]

        direction = changed if self.gradient_inconsistency == "patches" else follow_gradient
        with network.evaluating():
            return ascended_texture(network.at, batch.images, batch.labels, ascent, step.draws("patch"), direction)

    def disrupts(self, step: Step) -> bool:
        """Whether the gradients of the step's parameters are changed."""
        if self.gradient_inconsistency != "parameters" or all(bits.is_float for bits in self.drawn_bits(step)):
            return False
        if self.timing == "regular":
            return math.floor((step.index + 1) * self.share) > math.floor(step.index * self.share)
        return float(torch.rand((), generator=step.draws("changed gradients"))) < self.share

    def after_backward(self, parameters: list[torch.nn.Parameter], step: Step) -> None:
        """Equation 4, on every parameter that has a gradient."""
        if not self.disrupts(step):
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        changed = inconsistent(gradients, self._inconsistency, step.draws("gradient noise"))
        for gradient, other in zip(gradients, changed, strict=True):
            gradient.copy_(other)

    @property
    def _inconsistency(self) -> Inconsistency:
        return Inconsistency(
            self.strength, self.parallel, self.noise, self.noise_deviation, self.epsilon,
            epsilon_at=self.epsilon_at, norm=self.norm, noise_scaling=self.noise_scaling,
        )  # fmt: skip

    def _require_pairs(self, bits: tuple[Bits, ...]) -> None:
        uneven = [str(width) for width in bits if width.weight != width.activation]
        if self.draw == "tied" and uneven:
            raise TrainingError(
                f"{self.title}: draw: tied trains equal widths of weights and activations, found "
                f"{', '.join(uneven)} among the bits; leave them out or use draw: independent"
            )
        pairs = product({width.weight for width in bits}, {width.activation for width in bits})
        missing = sorted({Bits(*pair) for pair in pairs} - set(bits), reverse=True)
        if self.draw == "independent" and missing:
            raise TrainingError(
                f"{self.title}: draw: independent needs every pair of the widths among the quantizer's bits, found "
                f"{', '.join(map(str, bits))}; add {', '.join(map(str, missing))}, or use draw: tied"
            )
