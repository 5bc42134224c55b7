"""Layers of an ONNX graph: bits read off the types of its quantized operators, levels counted as it runs.

Two forms are read. QDQ: a float operator between DequantizeLinear and QuantizeLinear, whose integer type is the width.
QOperator: an operator on integers, such as QLinearConv. An operator without either multiplies floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from qpatchbench.types import FLOAT_BITS, StatedLayer

# Places of inputs and weights among an operator's own inputs.
FLOATING = {"Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1), "FusedConv": (0, 1)}
INTEGER = {
    "QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "QGemm": (0, 3), "ConvInteger": (0, 1), "MatMulInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1), "MatMulIntegerToFloat": (0, 1), "MatMulNBits": (0, 1),
}  # fmt: skip
CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger")
# They move codes about, so that what comes out lies on the grid of what went in.
MOVING = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Relu", "Slice", "Gather"}
FOUR_BITS = {"UINT4", "INT4"}


class _Use(NamedTuple):
    """One operator that multiplies by weights."""

    node: Any
    inputs: str
    weights: str
    weight_bits: int
    activation_bits: int


@dataclass
class _Graph:
    """The model's graph, by name of values."""

    proto: Any

    def __post_init__(self) -> None:
        graph = self.proto.graph
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.constants = {entry.name: entry for entry in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t

    def weight(self, name: str) -> tuple[str, int] | None:
        """The stored tensor behind an operand, and its bits; None where the operand depends on the image."""
        bits = FLOAT_BITS
        while name not in self.constants:
            node = self.made_by.get(name)
            if node is None or node.op_type not in (*MOVING, "DequantizeLinear", "QuantizeLinear", "Cast"):
                return None
            if node.op_type == "QuantizeLinear":
                bits = self.bits_of(node)
            name = node.input[0]
        stored = self.constants[name]
        return name, min(bits, _bits_of_type(stored.data_type))

    def bits(self, name: str) -> int:
        """Of the grid on which an operand lies that depends on the image; 32 where it lies on none."""
        node = self.made_by.get(name)
        while node is not None and node.op_type in MOVING:
            node = self.made_by.get(node.input[0])
        if node is None:
            return FLOAT_BITS
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return self.bits_of(node)
        if node.op_type == "DequantizeLinear":
            return self.bits(node.input[0]) if node.input[0] in self.made_by else FLOAT_BITS
        return 8 if node.op_type.startswith("QLinear") or node.op_type in INTEGER else FLOAT_BITS

    def bits_of(self, node: Any) -> int:  # noqa: ANN401 (onnx leaves its protos untyped)
        """Of what a quantizing operator puts out."""
        point = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        return 8 if point is None else _bits_of_type(point.data_type)


def stated_layers(proto: Any, image: str, inputs: torch.Tensor, where: str) -> tuple[StatedLayer, ...]:  # noqa: ANN401
    """Every operator that multiplies by weights, in the graph's order.

    Args:
        proto: the model; left as it is.
        image: name of its input.
        inputs: a batch as the model takes it; levels are counted on it.
        where: the file, for messages.
    """
    graph = _Graph(proto)
    uses = [*_uses(graph)]
    values = _values(proto, {use.node.output[0] for use in uses} | {use.inputs for use in uses}, image, inputs, where)
    layers = []
    for number, use in enumerate(uses):
        stored = graph.constants[use.weights]
        elements = int(np.prod(stored.dims))
        layers.append(
            StatedLayer(
                name=use.node.name or f"{use.node.op_type} {number}",
                weight_bits=use.weight_bits,
                activation_bits=use.activation_bits,
                weight_levels=_levels_by_channel(stored, use.node),
                activation_levels=len(np.unique(values[use.inputs])) if use.activation_bits != FLOAT_BITS else None,
                multiplications=_multiplications(use.node, stored, values[use.node.output[0]]) // len(inputs),
                parameters=elements,
            )
        )
    return tuple(layers)


def _uses(graph: _Graph) -> Iterator[_Use]:
    for node in graph.proto.graph.node:
        places = FLOATING.get(node.op_type) or INTEGER.get(node.op_type)
        if places is None:
            continue
        first, second = (node.input[place] for place in places)
        weight, other = graph.weight(second), first
        if weight is None and node.op_type == "MatMul":
            weight, other = graph.weight(first), second
        if weight is None:
            continue  # an attention product
        activation = 8 if node.op_type in INTEGER else graph.bits(other)
        if node.op_type == "MatMulNBits":
            activation = FLOAT_BITS
        yield _Use(node, other, weight[0], weight[1], activation)


def _values(proto: Any, names: set[str], image: str, inputs: torch.Tensor, where: str) -> dict[str, Any]:  # noqa: ANN401
    """The values of these names on a batch."""
    import onnx

    from qpatchbench.models.deployed.onnx_model import CPU, answers, open_session

    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    known = {entry.name for entry in opened.graph.output} | {image}
    wanted = sorted(names - known)
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = open_session(opened.SerializeToString(), CPU, where)
    asked = sorted(names - {image})
    found = dict(zip(asked, answers(session, asked, {image: inputs.numpy()}, where), strict=True))
    return {**found, image: inputs.numpy()}


def _multiplications(node: Any, stored: Any, output: Any) -> int:  # noqa: ANN401 (as above)
    """Multiply-accumulates of a batch: every output is a sum over the weights of its channel."""
    if node.op_type in CONVOLUTIONS:
        return int(output.size * np.prod(stored.dims[1:]))
    return int(output.size * np.prod(stored.dims) // output.shape[-1])


def _levels_by_channel(stored: Any, node: Any) -> int:  # noqa: ANN401 (as above)
    import onnx

    array = onnx.numpy_helper.to_array(stored)
    by_last = node.op_type not in CONVOLUTIONS and not any(a.name == "transB" and a.i for a in node.attribute)
    rows = np.moveaxis(array, -1 if by_last else 0, 0).reshape(array.shape[-1 if by_last else 0], -1)
    return max(len(np.unique(row.astype(np.float32))) for row in rows)


def _bits_of_type(data_type: int) -> int:
    import onnx

    name = onnx.TensorProto.DataType.Name(data_type)
    if name in FOUR_BITS:
        return 4
    return {"INT8": 8, "UINT8": 8, "INT16": 16, "UINT16": 16}.get(name, FLOAT_BITS)
