"""Biases of an ONNX model, which onnxruntime rounds to 32-bit integers: steps of input scale times weight scale.

Its integer kernels want them so, and it does so wherever an operator has quantized operands. At 8 bits such a step is
small. But it must not be too small either: a channel that training left without weights has a scale of nearly nothing,
and its bias would be cut off at the largest integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COARSE = 64  # beyond the codes of weights of 7 bits
MOST_STEPS = 2.0**30  # half of what 32 bits hold


def fit_biases(proto: Any) -> None:  # noqa: ANN401 (onnx leaves its protos untyped)
    """Raise the weight scale of channels whose bias would have more steps than 32 bits hold, in place.

    Their weights are so small that the codes, fewer then, change an output by 1e-5 of the bias.
    """
    import onnx

    constants = {entry.name: entry for entry in proto.graph.initializer}
    made_by = {node.output[0]: node for node in proto.graph.node}
    for node in proto.graph.node:
        sources = [made_by[name] for name in node.input[:2] if name in made_by]
        quantized = [source for source in sources if source.op_type == "DequantizeLinear"]
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or len(quantized) < 2:
            continue
        inputs, weights = quantized
        names = (inputs.input[1], weights.input[0], weights.input[1], node.input[2])
        scale, codes, scales, bias = (onnx.numpy_helper.to_array(constants[name]) for name in names)
        least = np.abs(bias) / (float(scale) * MOST_STEPS)
        if not (least > scales).any():
            continue
        raised = np.maximum(scales, least).astype(np.float32)
        shape = [-1 if axis == _axis(weights) else 1 for axis in range(codes.ndim)]
        fewer = np.rint(codes * (scales / raised).reshape(shape)).astype(codes.dtype)
        constants[names[1]].CopyFrom(onnx.numpy_helper.from_array(fewer, names[1]))
        constants[names[2]].CopyFrom(onnx.numpy_helper.from_array(raised, names[2]))


def _axis(node: Any) -> int:  # noqa: ANN401 (as above)
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 1)


def separate_biases(proto: Any, quantized: list[str]) -> None:  # noqa: ANN401 (as above)
    """Add biases apart from operators with an operand of fewer than 8 bits, in place.

    With 4 bits a step of the bias is so large that one prediction in ten changed.

    Args:
        proto: the model.
        quantized: outputs of its QuantizeLinear operators whose grid has fewer than 8 bits.
    """
    import onnx

    wanted = set(quantized)
    constants = {entry.name: entry for entry in proto.graph.initializer}
    made_by = {node.output[0]: node for node in proto.graph.node}

    def coarse(name: str) -> bool:
        node = made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        if node.input[0] not in constants:
            return node.input[0] in wanted
        return bool(np.abs(onnx.numpy_helper.to_array(constants[node.input[0]]).astype(np.int16)).max() < COARSE)

    for number, node in enumerate([*proto.graph.node]):
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or not any(map(coarse, node.input[:2])):
            continue
        bias = onnx.numpy_helper.to_array(constants[node.input[2]])
        shaped = bias.reshape(-1, 1, 1) if node.op_type == "Conv" else bias
        own, without = f"bias_{number}", f"without_bias_{number}"
        proto.graph.initializer.append(onnx.numpy_helper.from_array(shaped, own))
        added = onnx.helper.make_node("Add", [without, own], [node.output[0]], name=f"add_bias_{number}")
        node.output[0] = without
        del node.input[2]
        proto.graph.node.insert([*proto.graph.node].index(node) + 1, added)
    used = {name for node in proto.graph.node for name in node.input}
    kept = [entry for entry in proto.graph.initializer if entry.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
