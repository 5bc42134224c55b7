"""Steps that all deployments share: a float network out of any checkpoint, and the last touches."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.types import FLOAT


def float_network(checkpoint: Checkpoint, mode: str) -> torch.nn.Module:
    """The float network of a checkpoint: its weights, and the 32-bit BatchNorm after quantization-aware training.

    Raises:
        QPatchBenchError: trained without 32 bits, so that no float statistics exist.
    """
    from qpatchbench.quantizers.frozen.attention_biases import call_projections
    from qpatchbench.quantizers.trained.switchable import float_part

    module = checkpoint.build()
    if checkpoint.quantizer is None:
        module.load_state_dict(checkpoint.state)
        call_projections(module)
        return module
    if FLOAT not in checkpoint.bits:
        trained = ", ".join(map(str, checkpoint.bits))
        raise QPatchBenchError(
            f"{mode} starts from the float network, and this checkpoint was trained at {trained} bits only; expected "
            "32 among them. Add 32 to the trained bits, or deploy with the quantizer it was trained with"
        )
    module.load_state_dict(float_part(checkpoint.state))
    return module


def deploy_float(checkpoint: Checkpoint, mode: str, calibration: torch.Tensor) -> torch.nn.Module:
    """The float network, frozen and folded; every quantizer deploys 32 bits through this."""
    return finished(float_network(checkpoint, mode), calibration)


def finished(module: torch.nn.Module, calibration: torch.Tensor) -> torch.nn.Module:
    """Eval mode, no gradients to parameters, BatchNorm folded."""
    from qpatchbench.quantizers.frozen.folding import fold_batch_norm
    from qpatchbench.quantizers.frozen.network import settle

    settle(module)
    fold_batch_norm(module, calibration[:2])
    module.eval()  # what replaced a folded BatchNorm was made in training mode
    # Convolutions are faster this way on CPU and GPU.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
    return module


def loaded(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Load every tensor, or say which do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise QPatchBenchError(f"checkpoint does not fit its architecture and quantizer: {error}") from error
    return module
