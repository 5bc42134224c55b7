"""Fake quantization in single CUDA kernels, held against the same in torch's own steps on the CPU."""

from __future__ import annotations

from pathlib import Path

import torch

from qpatchbench.ops.quantization.fake_quantization import code_range, fake_quantize, fake_quantize_learned, max_scale

SHAPES = ((128, 16, 32, 32), (64, 64, 3, 3), (7, 5), (5, 1))


def agreement(device: torch.device, data_dir: Path) -> bool:
    """Same grid bit for bit, same gradient of values, and that of the scale up to the order of a sum."""
    draws = torch.Generator().manual_seed(0)
    wrong = tried = 0
    for shape in SHAPES:
        for bits, axis in ((8, None), (4, 0), (2, 0), (2, None)):
            values = torch.randn(shape, generator=draws)
            if values.ndim == 4:
                values = values.to(memory_format=torch.channels_last)
            upstream = torch.randn(shape, generator=draws)
            limits = code_range(bits, signed=True)
            scale = max_scale(values, limits.qmax, axis) * 0.6
            for kind in ("fixed", "learned", "held"):
                found = [_answers(values, scale, limits, axis, upstream, kind, place) for place in ("cpu", device)]
                near, far = ([part.cpu() for part in parts] for parts in found)
                same = torch.equal(near[0], far[0]) and torch.equal(near[1], far[1])
                close = all(torch.allclose(*pair, rtol=1e-4, atol=1e-5) for pair in zip(near[2:], far[2:], strict=True))
                tried += 1
                if not (same and close):
                    wrong += 1
                    print(f"  shape {shape}, {bits} bits, axis {axis}, {kind} scale: not what the CPU computes")
    print(f"  {tried - wrong} of {tried} quantizers answer as on the CPU")
    return tried > 0 and not wrong


def _answers(
    values: torch.Tensor, scale: torch.Tensor, limits: tuple[int, int], axis: int | None, upstream: torch.Tensor,
    kind: str, place: str | torch.device,
) -> list[torch.Tensor]:  # fmt: skip
    """Outputs and gradients; a held scale is a learned one that gets no gradient, as in an attack within training."""
    inputs = values.to(place).detach().requires_grad_()
    steps = scale.to(place).detach().requires_grad_(kind == "learned")
    outputs = (fake_quantize if kind == "fixed" else fake_quantize_learned)(inputs, steps, *limits, axis)
    wanted = (inputs, steps) if kind == "learned" else (inputs,)
    return [outputs.detach(), *torch.autograd.grad(outputs, wanted, upstream.to(place))]
