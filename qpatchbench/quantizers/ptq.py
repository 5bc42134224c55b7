"""Post-training quantization: a float checkpoint, and calibration images that fix ranges, biases and rounding.

Wu et al. 2020, Integer Quantization for Deep Learning Inference, arXiv 2004.09602, sections 3 and 4: weights per
channel max-abs, activations per tensor. `minmax` takes the largest |x| over all calibration images. `percentile` clips
the tail: the range is the given percentile of |x| in each calibration batch, averaged over batches, as in FQ-ViT (Lin
et al. 2022, arXiv 2111.13824). That is the plain form, which the papers use and which nobody deploys at 4 bits: every
other field is something that people do about it, and `recipe: best` all of what measured best together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.frozen.deploying import deploy_float, finished, float_network
from qpatchbench.types import Bits

if TYPE_CHECKING:
    from qpatchbench.quantizers.calibrated.rounding_fit import Rule

# What `recipe: best` means for a field that is not given.
BEST: dict[str, Any] = {
    "calibration": "mse",
    "asymmetric": True,
    "equalize": True,
    "weight_scale": "output",
    "rounding": "sequential",
    "bias_correction": True,
}
# Fields that came later: at these values, the plain form is what it was, and so is its key.
_PLAIN: dict[str, Any] = {
    "asymmetric": False,
    "weight_scale": "max_abs",
    "equalize": False,
    "rounding": "nearest",
    "rounding_steps": 1000,
    "bias_correction": False,
    "fitting_images": 64,
    "first_last": "same",
    "scope": "layers",
}


class Ptq(Quantizer):
    """Deploys a float checkpoint at any bit-width without training."""

    calibrates: ClassVar[bool] = True

    recipe: Literal["plain", "best"] = Field(
        default="plain",
        description="best: fields that are not given are set to what measured best together, see docs/quantizers.md",
    )
    calibration: Literal["minmax", "percentile", "mse"] = Field(
        default="minmax",
        description="range of activations: the largest |x|, a percentile of |x|, or that of least squared error",
    )
    percentile: float = Field(
        default=99.99,
        gt=0,
        le=100,
        description="percentile of |x| that becomes the range. 99.99 is among the two best of Wu et al. 2020; the "
        "99.999 of FQ-ViT clips next to nothing in the small feature maps of 32-pixel images",
        json_schema_extra={"unit": "%"},
    )
    batch_size: int = Field(
        default=64, gt=0, description="calibration images per batch", json_schema_extra={"unit": "images"}
    )
    asymmetric: bool = Field(
        default=False,
        description="activations that are negative at times get an integer zero point instead of a symmetric range",
    )
    weight_scale: Literal["max_abs", "mse", "output"] = Field(
        default="max_abs",
        description="scale of a channel's weights: the largest covered, least squared error of the weights, or the "
        "same with every weight counted by how much its input varies",
    )
    equalize: bool = Field(
        default=False, description="channels between two layers rescaled to one range (cross-layer equalisation)"
    )
    rounding: Literal["nearest", "sequential", "adaround"] = Field(
        default="nearest",
        description="of weights: to the nearest code; one after the other, each making up for those before (GPTQ); or "
        "learned (AdaRound). The last two first fit the float weights to the quantized inputs",
    )
    rounding_steps: int = Field(default=1000, gt=0, description="of AdaRound, per layer")
    bias_correction: bool = Field(
        default=False, description="biases make up for the mean error of each output channel on calibration images"
    )
    fitting_images: int = Field(
        default=64,
        gt=0,
        description="calibration images to which biases and rounding are fitted, in one batch",
        json_schema_extra={"unit": "images"},
    )
    first_last: Literal["same", "eight", "float"] = Field(
        default="same", description="first and last layer: bits of all, at least eight bits, or float"
    )

    scope: Literal["layers", "full"] = Field(
        default="layers",
        description="layers: inputs and weights of convolutions and linear layers. full: operands of attention "
        "products and residual additions too, and whatever is negative at times asymmetrically, as in FQ-ViT",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, fields: Any) -> Any:  # noqa: ANN401 (pydantic's protocol: whatever was given)
        if not isinstance(fields, dict):
            return fields
        recipe = BEST if fields.get("recipe") == "best" else {}
        scope = {"asymmetric": True} if fields.get("scope") == "full" else {}
        return {**recipe, **scope, **fields}

    @property
    def mode(self) -> str:
        """ptq-best, ptq-minmax, ptq-percentile or ptq-mse, unless labelled."""
        return self.label or f"{self.name}-{self.calibration if self.recipe == 'plain' else self.recipe}"

    def identity(self) -> dict[str, Any]:
        """Without the recipe, which only fills fields, and without fields that change nothing about the plain form."""
        plain = {"recipe": self.recipe, **_PLAIN}
        kept = {name: value for name, value in super().identity().items() if name not in plain or plain[name] != value}
        shrinks = self.bias_correction and self.rounding == "nearest" and self.weight_scale != "max_abs"
        return {**kept, "bias": "own error"} if shrinks else kept  # they were others before

    def calibrated_at_once(self, images: int) -> int:
        """A batch, or twice the images that biases and rounding are fitted to: through float and quantized layers."""
        fitted = 0 if self._rule.plain else 2 * min(self.fitting_images, images)
        return max(min(self.batch_size, images), fitted)

    @property
    def _rule(self) -> Rule:
        from qpatchbench.quantizers.calibrated.rounding_fit import Rule

        return Rule(self.weight_scale, self.rounding, self.bias_correction, self.rounding_steps)

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> torch.nn.Module:
        """The float network of the checkpoint, quantized at `bits`, frozen.

        Raises:
            QPatchBenchError: no calibration images, or the checkpoint has no float network.
        """
        from qpatchbench.quantizers.calibrated.equalisation import equalize
        from qpatchbench.quantizers.calibrated.float_operands import attach_operands, plan_operands
        from qpatchbench.quantizers.calibrated.grids import plan_layers
        from qpatchbench.quantizers.calibrated.rounding_fit import quantize_weights
        from qpatchbench.quantizers.frozen.folding import fold_batch_norm
        from qpatchbench.quantizers.frozen.network import freeze_static, reject_empty, settle
        from qpatchbench.quantizers.inspection.inputs import in_batches

        if bits.is_float:
            return deploy_float(checkpoint, self.mode, calibration)
        reject_empty(calibration, self.mode)
        module = float_network(checkpoint, self.mode)
        batches = in_batches(calibration, self.batch_size)
        rule = self._rule
        if self.equalize or not rule.plain:
            settle(module)
            fold_batch_norm(module, calibration[:2])
            module.eval()  # what replaced a folded BatchNorm was made in training mode
        if self.equalize:
            equalize(module, batches)
        plan = plan_layers(module, batches, bits, self)
        full = plan_operands(module, batches, bits.activation, self) if self.scope == "full" else None
        if rule.plain:
            for name, planned in plan.items():
                freeze_static(module.get_submodule(name), *planned)
        else:
            quantize_weights(module, calibration[: self.fitting_images], plan, rule)
        if full is not None:
            attach_operands(module, *full)
        return finished(module, calibration)
