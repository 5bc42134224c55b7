"""Codes of every quantized input, in the simulation and in the runtime that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qpatchbench.ops.quantization.fake_quantization import code_range
from qpatchbench.quantizers.frozen.activation import FrozenActivation
from qpatchbench.types import FLOAT_BITS

# A sum in another order may end on the other side of a tie: that moves a code by one. Two are no rounding of one sum.
MOST_BEYOND = 1e-3  # share of a layer's codes that may be off by more than one


class LayerDifference(NamedTuple):
    """The codes that reach one layer.

    Attributes:
        layer: whose input it is.
        codes: how many were compared.
        differ: how many are others.
        beyond: how many are off by more than one.
        largest: by how much at most.
    """

    layer: str
    codes: int
    differ: int
    beyond: int
    largest: int

    @property
    def exceeds(self) -> bool:
        """Whether it is more than rounding."""
        return self.beyond > MOST_BEYOND * self.codes


@torch.no_grad()
def layer_differences(
    network: nn.Module, model: bytes, quantizers: Mapping[str, str], images: torch.Tensor, where: str
) -> tuple[LayerDifference, ...]:
    """Compare the codes of every layer's input, in order of execution.

    A layer also inherits what differs before it, so that the first one beyond rounding is where to look.

    Args:
        network: the simulation, on the CPU.
        model: the same as ONNX.
        quantizers: output of each QuantizeLinear -> layer, in order of execution.
        images: (N, 3, H, W); one by one where the model takes them so.
        where: the model, for messages.
    """
    if not quantizers:
        return ()
    simulated = _simulated_codes(network, images)
    measured = _runtime_codes(model, list(quantizers), images, where)
    found = []
    for layer, ours, theirs in zip(quantizers.values(), simulated, measured, strict=True):
        off = np.abs(ours - theirs)
        counts = (off.size, int((off > 0).sum()), int((off > 1).sum()), int(off.max(initial=0)))
        found.append(LayerDifference(layer, *counts))
    return tuple(found)


def _simulated_codes(network: nn.Module, images: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    found: list[np.ndarray[Any, Any]] = []

    def look(part: nn.Module, arguments: object, output: torch.Tensor) -> None:
        assert isinstance(part, FrozenActivation), "hooked below"
        assert part.scale is not None, "a model was written of it"
        codes = part.codes or code_range(part.width, part.signed)
        zero = -codes.qmin if part.codes is not None else 0
        found.append(((output / part.scale).round() + zero).to(torch.int32).contiguous().numpy())

    parts = [part for part in network.modules() if isinstance(part, FrozenActivation) and part.width != FLOAT_BITS]
    hooks = [part.register_forward_hook(look) for part in parts]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _runtime_codes(model: bytes, names: list[str], images: torch.Tensor, where: str) -> list[np.ndarray[Any, Any]]:
    import onnx

    from qpatchbench.models.deployed.onnx_model import CPU, answers, open_session

    proto = onnx.load_from_string(model)
    shown: dict[str, str] = {}
    for name in dict.fromkeys(names):
        # As 32 bits: numpy has no 4-bit integers.
        shown[name] = f"{name}_code"
        cast = onnx.helper.make_node("Cast", [name], [shown[name]], to=onnx.TensorProto.INT32)
        proto.graph.node.append(cast)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(shown[name], onnx.TensorProto.INT32, None))
    session = open_session(proto.SerializeToString(), CPU, where)
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(images)
    parts = [
        answers(session, [shown[name] for name in names], {entry.name: part.numpy()}, where)
        for part in torch.split(images.float().cpu(), size)
    ]
    return [np.concatenate(arrays).astype(np.int64) for arrays in zip(*parts, strict=True)]
