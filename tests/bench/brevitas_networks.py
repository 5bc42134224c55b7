"""The same float network quantized by Brevitas, layer for layer: same bits, granularity, calibration images."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from qpatchbench.quantizers.inspection.inputs import observe_inputs
from qpatchbench.quantizers.trained.layers import quantizable


@torch.no_grad()
def brevitas_network(
    network: nn.Module, calibration: torch.Tensor, bits: int, *, least_squares: bool, bias: bool, gptq: bool
) -> nn.Module:
    """Weights per channel and narrow, inputs per tensor, the input of the first layer left alone; in eval mode.

    Args:
        network: float, BatchNorm folded; left alone.
        calibration: (N, 3, H, W), one batch.
        bits: of weights and activations.
        least_squares: ranges of least squared error instead of max-abs weights and percentile activations.
        bias: whether biases are corrected.
        gptq: whether weights are rounded by GPTQ.
    """
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.graph.gptq import gptq_mode

    result = copy.deepcopy(network)
    seen = observe_inputs(result, [calibration[:16]], lambda name: {})
    for name, layer in list(quantizable(result)):
        signed = None if name == next(iter(seen)) else seen[name].signed
        parent, _, own = name.rpartition(".")
        setattr(result.get_submodule(parent), own, _layer(layer, bits, signed, least_squares))
    result.eval()
    with calibration_mode(result):
        result(calibration)
    if gptq:
        with gptq_mode(result, use_quant_activations=True, act_order=True) as rounding:
            for _ in range(rounding.num_layers):
                rounding.model(calibration)
                rounding.update()
    if bias:
        with bias_correction_mode(result):
            result(calibration)
    return result.eval()


class SamePadded(nn.Module):
    """Pads as TensorFlow does, like the layer that it stands for."""

    def __init__(self, original: Any, layer: nn.Module) -> None:  # noqa: ANN401 (timm's class is untyped)
        super().__init__()
        self.geometry = original.kernel_size, original.stride, original.dilation
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W)."""
        from timm.layers.padding import pad_same

        outputs: torch.Tensor = self.layer(pad_same(inputs, *self.geometry))
        return outputs


def _layer(original: nn.Module, bits: int, signed: bool | None, least_squares: bool) -> nn.Module:
    """Signed None: the input is not quantized."""
    from brevitas import nn as quantized
    from brevitas.quant import scaled_int, shifted_scaled_int

    suffix = "MSE" if least_squares else ""
    inputs = None
    if signed is not None:
        module, kind = (shifted_scaled_int, "ShiftedUint8") if signed else (scaled_int, "Uint8")
        inputs = getattr(module, f"{kind}ActPerTensorFloat{suffix}")
    settings: dict[str, Any] = {
        "bias": True,
        "weight_quant": getattr(scaled_int, f"Int8WeightPerChannelFloat{suffix}"),
        "weight_bit_width": bits,
        "input_quant": inputs,
        "return_quant_tensor": False,
    }
    if inputs is not None:
        settings["input_bit_width"] = bits
    if isinstance(original, nn.Conv2d):
        made = quantized.QuantConv2d(
            original.in_channels,
            original.out_channels,
            original.kernel_size,
            stride=original.stride,
            padding=original.padding,
            dilation=original.dilation,
            groups=original.groups,
            **settings,
        )
    else:
        assert isinstance(original, nn.Linear), "quantizable() admits convolutions and linear layers"
        made = quantized.QuantLinear(original.in_features, original.out_features, **settings)
    assert isinstance(original.weight, torch.Tensor), "a layer that can be quantized"
    made.weight.copy_(original.weight)
    made.bias.copy_(torch.zeros_like(made.bias) if original.bias is None else original.bias)
    same = type(original) is not nn.Conv2d and isinstance(original, nn.Conv2d)
    return SamePadded(original, made) if same else made
