"""How the loss went while a stored patch was crafted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from qpatchbench.errors import ArtifactError
from qpatchbench.evaluation.statistics import Array


def loss_history(path: Path) -> Array | None:
    """Mean loss of every recorded step, (steps,) float64; None without the file.

    Raises:
        ArtifactError: no patch file.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return np.asarray(file.get_tensor("history"))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: expected a patch with its history, found {error}") from None
