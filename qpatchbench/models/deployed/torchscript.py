"""TorchScript files: a scripted or traced network, float or quantized, run by torch without its Python code."""

from __future__ import annotations

from pathlib import Path

import torch

from qpatchbench.errors import WeightsError
from qpatchbench.models.deployed.disguises import require_kind
from qpatchbench.models.deployed.opened import Opened


def open_script(path: Path) -> Opened:
    """The network of a file that torch.jit.save wrote.

    Raises:
        WeightsError: it is none.
    """
    require_kind(path, "TorchScript")
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]  # torch's own
    except RuntimeError as error:
        raise WeightsError(f"{path}: torch.jit.load refuses it: {str(error).strip().splitlines()[-1]}") from error
    return Opened(module)
