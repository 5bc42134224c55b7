"""Size of a network: parameters, multiply-accumulates, bytes at its bits, and time where a runtime answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qpatchbench.evaluation.deployment.parity import latency
from qpatchbench.models.deployed.deployed_network import DeployedNetwork
from qpatchbench.quantizers.frozen.network import frozen_layers
from qpatchbench.quantizers.inspection.audit_layers import operations
from qpatchbench.types import FLOAT_BITS

BITS_PER_BYTE = 8


def network_size(network: nn.Module, image: torch.Tensor, runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a cell's record; what is not known is left out.

    Args:
        network: deployed, with nothing before it.
        image: (1, 3, H, W) in [0, 1].
        runtime: `bytes` and `latency_ms` where a model of it was written and run.
    """
    if isinstance(network, DeployedNetwork):
        layers = network.stated_layers(image) or ()
        counted = {
            "parameters": sum(layer.parameters for layer in layers),
            "multiplications": sum(layer.multiplications for layer in layers),
        }
        told = counted if layers else {}
        return {**told, "model_bytes": network.file_bytes, "latency_ms": latency(network, image.cpu())}
    # A network that chooses among members computes with one of them.
    rows = operations(network, image)
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiplications": sum(row.multiplications for row in rows),
        "model_bytes": parameter_bytes(network),
    }
    if "bytes" in runtime:
        found |= {"model_bytes": runtime["bytes"], "latency_ms": runtime["latency_ms"]}
    return found


def parameter_bytes(network: nn.Module) -> int:
    """Bytes of all parameters: weights of quantized layers at their bits, everything else as float32."""
    quantized = {id(layer.stored_weight): layer.weight_bits for _, layer in frozen_layers(network)}
    sizes = (parameter.numel() * quantized.get(id(parameter), FLOAT_BITS) for parameter in network.parameters())
    return -(-sum(sizes) // BITS_PER_BYTE)
