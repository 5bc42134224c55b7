"""Storage of codes in an ONNX model: in 4 bits where they fit, and turned as the operator wants them."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST, MOST = -8, 7  # of 4 signed bits


def narrow(proto: Any, quantized: list[str]) -> None:  # noqa: ANN401 (onnx leaves its protos untyped)
    """Store codes in 4 bits, in place: of all weights that fit, and of the activations named.

    Args:
        proto: the model.
        quantized: outputs of its QuantizeLinear operators whose grid has 16 points or fewer.
    """
    import onnx

    constants = {entry.name: entry for entry in proto.graph.initializer}
    wanted = set(quantized)
    for number, node in enumerate(proto.graph.node):
        own = node.op_type == "QuantizeLinear" and node.output[0] in wanted
        other = node.op_type == "DequantizeLinear" and node.input[0] in wanted
        if own or other:
            zero = constants[node.input[2]]
            signed = zero.data_type == onnx.TensorProto.INT8
            kind = onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4
            value = int(onnx.numpy_helper.to_array(zero))
            node.input[2] = f"{node.input[2]}_four_{number}"
            proto.graph.initializer.append(onnx.helper.make_tensor(node.input[2], kind, [], [value]))
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            stored = constants[node.input[0]]
            codes = onnx.numpy_helper.to_array(stored)
            if codes.dtype == np.int8 and codes.min() >= LEAST and codes.max() <= MOST:
                packed = _packed(codes.flatten())
                kind = onnx.TensorProto.INT4
                stored.CopyFrom(onnx.helper.make_tensor(stored.name, kind, stored.dims, packed, raw=True))


def split_clips(proto: Any) -> None:  # noqa: ANN401 (as above)
    """Write every Clip as Max and Min, in place.

    Where a Clip stands before a QuantizeLinear, or ends up there because reshapings move, onnxruntime looks whether it
    can leave it out, and refuses the model if codes have 4 bits. One stands behind every ReLU6, and before grids of
    fewer than 4 bits.
    """
    import onnx

    for clip in [node for node in proto.graph.node if node.op_type == "Clip"]:
        values, *limits = clip.input
        (output,) = clip.output
        bounds = [(kind, limit) for kind, limit in zip(("Max", "Min"), limits, strict=False) if limit]
        if not bounds:
            continue
        place = [*proto.graph.node].index(clip)
        proto.graph.node.remove(clip)
        for number, (kind, limit) in enumerate(bounds):
            made = output if number + 1 == len(bounds) else f"{output}_{kind.lower()}"
            proto.graph.node.insert(place + number, onnx.helper.make_node(kind, [values, limit], [made]))
            values = made


def _packed(codes: np.ndarray[Any, Any]) -> bytes:
    """Two codes a byte, the first in the lower half."""
    halves = np.append(codes, np.zeros(len(codes) % 2, codes.dtype)).astype(np.uint8) & 0xF
    return (halves[::2] | halves[1::2] << 4).tobytes()


def transpose_codes(proto: Any) -> None:  # noqa: ANN401 (as above)
    """Turn the codes of linear layers once, in place, where the model turns their weights at every pass.

    Runtimes recognise a quantized product only where DequantizeLinear feeds it directly.
    """
    import onnx

    constants = {entry.name: entry for entry in proto.graph.initializer}
    made_by = {node.output[0]: node for node in proto.graph.node}
    readers: dict[str, int] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    gone = []
    for node in proto.graph.node:
        source = made_by.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in constants:
            continue
        stored = constants[source.input[0]]
        if len(stored.dims) != 2 or readers[source.output[0]] != 1 or readers[stored.name] != 1:
            continue
        turned = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored).T.copy(), stored.name)
        stored.CopyFrom(turned)
        for attribute in source.attribute:
            if attribute.name == "axis":
                attribute.i = 1
        source.output[0] = node.output[0]
        gone.append(node)
    for node in gone:
        proto.graph.node.remove(node)


def forget_notes(proto: Any) -> None:  # noqa: ANN401 (as above)
    """Remove the exporter's notes in place: lines of code beside every operator, and types that may be others now."""
    del proto.graph.value_info[:], proto.metadata_props[:], proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
