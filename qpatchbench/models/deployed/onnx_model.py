"""ONNX models, float or quantized (QDQ and QOperator), run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qpatchbench.errors import QPatchBenchError, WeightsError, suggestion
from qpatchbench.models.deployed.disguises import require_kind
from qpatchbench.models.deployed.onnx_layers import stated_layers
from qpatchbench.models.deployed.opened import Opened

INSTALL = "pip install 'qpatchbench[deploy]'"
CPU = "CPUExecutionProvider"
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
}


def open_onnx(path: Path, provider: str, output: str | None) -> Opened:
    """The model of an .onnx file.

    Args:
        path: the file.
        provider: execution provider of onnxruntime.
        output: name of the output with the logits; None: its only one.

    Raises:
        WeightsError: onnxruntime is missing or refuses the file, or the file takes or gives something else.
    """
    require_kind(path, "ONNX")
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise WeightsError(f"{path}: reading ONNX needs the library onnx, which is not installed: {INSTALL}") from error
    try:
        proto = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(proto)
    except Exception as error:
        if _external(proto if "proto" in locals() else None):
            raise _in_two_files(path) from None
        raise WeightsError(
            f"{path}: expected an ONNX model, found a file that onnx cannot read ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}); export it again"
        ) from error
    if _external(proto):
        raise _in_two_files(path)
    return opened_model(proto, provider, output, str(path))


def opened_model(proto: Any, provider: str, output: str | None, where: str) -> Opened:  # noqa: ANN401 (onnx's, untyped)
    """An ONNX model in memory; arguments and errors as `open_onnx`, `where` for messages."""
    session = open_session(proto.SerializeToString(), provider, where)
    image = _only_input(session, where)
    named = _output(session, output, where)

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(answers(session, [named], {image.name: inputs.numpy()}, where)[0])

    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in image.shape)
    return Opened(answer, shape, TYPES[image.type], lambda inputs: stated_layers(proto, image.name, inputs, where))


def open_session(model: bytes, provider: str, where: str) -> Any:  # noqa: ANN401 (onnxruntime leaves it untyped)
    """A session of onnxruntime that computes the same every time, on as many threads as torch.

    Raises:
        WeightsError: onnxruntime is missing, refuses the model, or has no such provider.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise WeightsError(f"{where}: ONNX needs the library onnxruntime, which is not installed: {INSTALL}") from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise WeightsError(f"{where}: onnxruntime has no provider {provider!r} here.{suggestion(provider, available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False  # it never gives back what it took, and is no faster
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as torch's threads, see `wait_asleep`
    options.log_severity_level = 3  # errors are raised
    try:
        return onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:
        raise WeightsError(f"{where}: onnxruntime refuses it: {_reason(error)}") from error


def answers(session: Any, names: list[str], inputs: dict[str, Any], where: str) -> list[Any]:  # noqa: ANN401 (as above)
    """The outputs of these names, as arrays.

    Raises:
        QPatchBenchError: the runtime fails on these inputs.
    """
    try:
        found: list[Any] = session.run(names, inputs)
    except Exception as error:
        shapes = ", ".join("x".join(map(str, array.shape)) for array in inputs.values())
        raise QPatchBenchError(
            f"{where}: onnxruntime fails on images {shapes}: {_reason(error)}. Expected size and layout to be what the "
            "model takes: give it size: or layout:"
        ) from error
    return found


def _only_input(session: Any, where: str) -> Any:  # noqa: ANN401 (as above)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        shapes = ", ".join(f"{entry.name} {'x'.join(map(str, entry.shape))}" for entry in inputs)
        raise WeightsError(
            f"{where}: expected one input, the images, found {len(inputs)}: {shapes}. Export it with the images alone, "
            "and what else it takes as constants (initializers)"
        )
    if inputs[0].type not in TYPES:
        raise WeightsError(f"{where}: expected an input of {', '.join(TYPES)}, found {inputs[0].type}")
    return inputs[0]


def _output(session: Any, wanted: str | None, where: str) -> str:  # noqa: ANN401 (as above)
    names = [entry.name for entry in session.get_outputs()]
    if wanted is None and len(names) == 1:
        return str(names[0])
    if wanted in names:
        return str(wanted)
    if wanted is None:
        raise WeightsError(
            f"{where}: expected one output, the logits, found {len(names)}: {', '.join(names)}. Say which: output: "
            f"{names[0]}"
        )
    raise WeightsError(f"{where}: no output {wanted!r}.{suggestion(wanted, names)}")


def _external(proto: Any) -> bool:  # noqa: ANN401 (as above)
    return proto is not None and any(entry.data_location == 1 for entry in proto.graph.initializer)


def _in_two_files(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: its weights lie in a file beside it, which its hash would not cover: expected one file. Write it "
        "again with onnx.save(onnx.load(PATH), NEW)"
    )


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
