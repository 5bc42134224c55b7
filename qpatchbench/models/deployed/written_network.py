"""An ONNX model that was written here, as the network that onnxruntime makes of it."""

from __future__ import annotations

import hashlib

from qpatchbench.models.deployed.deployed_network import DeployedNetwork, InputRules
from qpatchbench.models.deployed.onnx_model import CPU, opened_model


def written_network(model: bytes, side: int, where: str) -> DeployedNetwork:
    """The network of a model that takes images (B, 3, side, side) in [0, 1] and gives logits.

    Raises:
        WeightsError: onnxruntime is missing, or refuses the model.
    """
    import onnx

    opened = opened_model(onnx.load_from_string(model), CPU, None, where)
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    rules = InputRules(side, False, 0.0, 1.0, zeros, ones, False, opened.shape[0], False)
    network = DeployedNetwork(opened, rules, hashlib.sha256(model).hexdigest(), len(model))
    return network.eval()
