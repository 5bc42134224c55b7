"""The device that a name stands for, set so that it computes what the CPU computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch


def device_named(name: str) -> torch.device:
    """The device to compute on; auto is an accelerator (CUDA, ROCm, Apple's MPS) where there is one.

    Convolutions are deterministic, and matrix units do not round float32 operands to TF32: of its 11 significant bits
    a quantization step of 8 bits leaves 3 to tell a value from its neighbours.

    Raises:
        click.BadParameter: no such device.
    """
    import torch

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        device = here or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise click.BadParameter(
                f"expected auto, cpu, cuda, cuda:N or mps, found {name!r}", param_hint="--device"
            ) from None
    if device.type != "cpu" and (here is None or device.type != here.type):
        there = "cpu" if here is None else f"cpu or {here.type}"
        raise click.BadParameter(f"no {device.type} device is here; use --device {there}", param_hint="--device")
    if device.type != "cpu" and (device.index or 0) >= torch.accelerator.device_count():
        raise click.BadParameter(
            f"expected one of {torch.accelerator.device_count()} devices, {device.type}:0 the first, found {device}",
            param_hint="--device",
        )
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    return device
