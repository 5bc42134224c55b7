"""Layers of a torch.export program: bits read off the quantizing operators that PT2E put around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from qpatchbench.types import FLOAT_BITS, StatedLayer

MULTIPLYING = ("conv1d", "conv2d", "conv3d", "linear", "convolution", "conv_transpose2d")
PACKED = ("mm", "addmm", "_int_mm", "int_matmul", "int_scaled_matmul", "_weight_int8pack_mm", "_weight_int4pack_mm")
# They move values about, so that what comes out lies on the grid of what went in.
MOVING = ("view", "reshape", "flatten", "permute", "transpose", "unsqueeze", "squeeze", "relu", "max_pool2d", "clone")


def program_layers(program: Any) -> tuple[StatedLayer, ...]:  # noqa: ANN401 (torch's ExportedProgram)
    """Every convolution and linear layer whose weights the program holds, in its order; none where others multiply.

    torchao packs weights and multiplies by operators of its own, of which this cannot tell the bits.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    packed = any(_kind(node) in PACKED or str(node.target).startswith("torchao") for node in nodes)
    return () if packed else tuple(_layers(program))


def _layers(program: Any) -> Iterator[StatedLayer]:  # noqa: ANN401 (as above)
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        if node.op != "call_function" or _kind(node) not in MULTIPLYING:
            continue
        stored, weight_bits = _grid(node.args[1])
        if stored.name not in held:
            continue
        weight = program.state_dict[held[stored.name]]
        _, activation_bits = _grid(node.args[0])
        outputs = math.prod(size for size in node.meta["val"].shape[1:])
        yield StatedLayer(
            name=node.name,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            weight_levels=max(len(torch.unique(row)) for row in weight.flatten(1)),
            activation_levels=None,
            multiplications=outputs * weight[0].numel(),
            parameters=weight.numel(),
        )


def _grid(node: Any) -> tuple[Any, int]:  # noqa: ANN401 (a node of torch.fx)
    """Where an operand comes from, and the bits of the grid that it lies on on its way; 32 for none."""
    bits = FLOAT_BITS
    while node.op == "call_function":
        kind = _kind(node)
        if kind.startswith("dequantize_per_"):
            qmin, qmax = [value for value in node.args[1:] if isinstance(value, int)][-2:]
            bits = min(bits, math.ceil(math.log2(qmax - qmin + 1)))
        elif kind not in MOVING:
            break
        node = node.args[0]
        if kind.startswith("dequantize_per_tensor"):
            break
    return node, bits


def _kind(node: Any) -> str:  # noqa: ANN401 (as above)
    return str(getattr(getattr(node.target, "overloadpacket", None), "__name__", ""))
