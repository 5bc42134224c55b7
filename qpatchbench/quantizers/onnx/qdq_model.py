"""From a deployed network to an ONNX model in QDQ form, through torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.onnx.biases import fit_biases, separate_biases
from qpatchbench.quantizers.onnx.exportable import OnGrid, exportable, from_codes, on_grid
from qpatchbench.quantizers.onnx.storage import forget_notes, narrow, split_clips, transpose_codes

OPSET = 21  # the first with 4-bit integers
INSTALL = "pip install 'qpatchbench[deploy]'"
INPUT, LOGITS = "images", "logits"


class QdqModel(NamedTuple):
    """An ONNX model.

    Attributes:
        proto: the model; images (B, 3, H, W) float32 in [0, 1] -> logits (B, K).
        quantizers: name of every QuantizeLinear's output -> the layer whose input it is, in order of execution.
        batch_size: how many images it takes at once; None: any number.
    """

    proto: Any
    quantizers: dict[str, str]
    batch_size: int | None


def write_onnx(network: nn.Module, side: int) -> QdqModel:
    """The network as an ONNX model with weights as integers, per channel, and activations per tensor.

    Args:
        network: what `ptq`, `qat` or `fp` deployed.
        side: of the images, pixels.

    Raises:
        QPatchBenchError: no such model can say what the network computes, or torch cannot export it.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise QPatchBenchError(f"exporting to ONNX needs the library {error.name}: {INSTALL}") from error
    made = exportable(network)
    order = _order(made, torch.rand(2, 3, side, side))
    table = {on_grid._opoverload: _on_grid_nodes, from_codes._opoverload: _from_codes_nodes}
    problems = []
    for batch in (None, 1):
        sizes = None if batch else ({0: torch.export.Dim("batch")},)
        example = torch.rand(batch or 2, 3, side, side)
        try:
            with _quiet():
                program = torch.onnx.export(
                    made,
                    (example,),
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=[INPUT],
                    output_names=[LOGITS],
                    dynamic_shapes=sizes,
                    custom_translation_table=table,  # type: ignore[arg-type]  # of overloads, as torch documents it
                    verbose=False,
                )
        except Exception as error:
            problems.append(str(error).strip().partition("\n")[0])
            continue
        assert program is not None, "with dynamo, it returns a program"
        proto = program.model_proto
        nodes = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
        if len(nodes) != len(order):
            raise QPatchBenchError(
                f"expected {len(order)} quantizers in the ONNX model, as the network has, found {len(nodes)}"
            )
        forget_notes(proto)
        transpose_codes(proto)
        fit_biases(proto)
        four = [node.output[0] for node, grid in zip(nodes, order, strict=True) if grid.four]
        narrow(proto, four)
        if four:
            split_clips(proto)
        separate_biases(proto, [node.output[0] for node, grid in zip(nodes, order, strict=True) if grid.coarse])
        onnx.checker.check_model(proto)
        return QdqModel(proto, {node.output[0]: grid.layer for node, grid in zip(nodes, order, strict=True)}, batch)
    raise QPatchBenchError(f"torch cannot export this network ({problems[0]})")


def _order(network: nn.Module, images: torch.Tensor) -> list[OnGrid]:
    """The activation quantizers that run, in order, as often as they run."""
    found: list[OnGrid] = []
    grids = [part for part in network.modules() if isinstance(part, OnGrid)]
    hooks = [grid.register_forward_pre_hook(lambda grid, _: found.append(grid)) for grid in grids]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _on_grid_nodes(values: Any, scale: Any, zero: Any, limits: Sequence[float]) -> Any:  # noqa: ANN401 (onnxscript's)
    from onnxscript import opset21 as op

    if limits:
        values = op.Clip(values, *(op.Constant(value_float=float(limit)) for limit in limits))
    return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero), scale, zero)


def _from_codes_nodes(codes: Any, scales: Any, bits: int) -> Any:  # noqa: ANN401 (as above)
    from onnxscript import opset21 as op

    return op.DequantizeLinear(codes, scales, axis=0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress, which it prints and logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
