"""The device that a name stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch


def device_named(name: str) -> torch.device:
    """The device to compute on; auto is a GPU where there is one.

    Raises:
        click.BadParameter: no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise click.BadParameter(f"expected auto, cpu, cuda or cuda:N, found {name!r}", param_hint="--device") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no CUDA device is here; use --device cpu", param_hint="--device")
    torch.backends.cudnn.deterministic = True
    return device
