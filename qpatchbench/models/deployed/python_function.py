"""A function of a Python file: images in, logits out; for whatever a runtime needs that is not built in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from qpatchbench.errors import WeightsError, suggestion
from qpatchbench.importing import imported_file
from qpatchbench.models.deployed.opened import Opened


def open_function(path: Path, name: str) -> Opened:
    """The function `name` of a file: (B, 3, H, W) float32 tensor -> (B, K) tensor or array.

    The file is code and is run, as the user who names it may run it.

    Raises:
        WeightsError: there is no such function.
        PluginError: the file cannot be imported.
    """
    module = imported_file(path, f"model {path}:{name} cannot be imported")
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise WeightsError(f"{path}: expected a function {name!r} of images, found none.{suggestion(name, known)}")

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        found = function(inputs)
        return torch.from_numpy(found) if isinstance(found, np.ndarray) else found

    return Opened(answer)
