"""Programs of torch.export: float networks, those that PT2E quantized, and those whose weights torchao packed."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from qpatchbench.errors import WeightsError
from qpatchbench.models.deployed.disguises import require_kind
from qpatchbench.models.deployed.opened import Opened
from qpatchbench.models.deployed.program_layers import program_layers


def open_program(path: Path) -> Opened:
    """The program of a file that torch.export.save wrote.

    Raises:
        WeightsError: it is none, needs operators that are not installed, or takes more than one input.
    """
    require_kind(path, "a torch.export program")
    pickled = [*_pickled(path)]
    if pickled:
        raise WeightsError(
            f"{path}: expected tensors as they are, found a pickle, which may run code and is not read: {pickled[0]}. "
            "After torchao quantized a module, export torchao.utils.unwrap_tensor_subclass(module)"
        )
    if importlib.util.find_spec("torchao") is not None:
        import torchao  # noqa: F401 (its operators must be known before a program that calls them is read)
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise WeightsError(
            f"{path}: torch.export.load refuses it ({type(error).__name__}: {str(error).strip().splitlines()[0]}); "
            "expected a program of this torch, and torchao installed where it quantized: "
            "pip install 'qpatchbench[deploy]'"
        ) from error
    names = program.graph_signature.user_inputs
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise WeightsError(
            f"{path}: expected one input, the images, found {len(inputs)}: {', '.join(map(str, names))}. Export a "
            "module whose forward takes images alone"
        )
    shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    layers = program_layers(program)
    return Opened(program.module(), shape, inputs[0].dtype, (lambda _: layers) if layers else None)


def _pickled(path: Path) -> Iterator[str]:
    """Parts of a program that torch.export.load would unpickle, and so run."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {})
                yield from (key for key, entry in entries.items() if entry.get("use_pickle"))
            elif "custom_obj" in name:
                yield name
            elif "/sample_inputs/" in name:
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception:  # whatever its bytes are, they are no plain tensors
                    yield name
