"""Files of a tiny network, as each runtime wants them; made here, so that nothing is downloaded."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SIDE, CLASSES = 16, 3


class Tiny(nn.Module):
    """Two convolutions and a linear layer, on images (B, 3, H, W)."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 12, 3)
        self.last = nn.Linear(12, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        hidden = torch.relu(self.second(torch.relu(self.first(images))))
        logits: torch.Tensor = self.last(hidden.mean((2, 3)))
        return 20 * logits


def tiny(classes: int = CLASSES) -> Tiny:
    """The same network every time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny(classes).eval().requires_grad_(False)


class Around(nn.Module):
    """A network with something done to what goes in and what comes out."""

    def __init__(self, network: nn.Module, before: Any = None, after: Any = None) -> None:  # noqa: ANN401 (functions)
        super().__init__()
        self.network, self.before, self.after = network, before or (lambda x: x), after or (lambda x: x)

    def forward(self, images: torch.Tensor) -> Any:  # noqa: ANN401 (tests answer with several, too)
        """As the three have it."""
        return self.after(self.network(self.before(images)))


def images(count: int = 5) -> torch.Tensor:
    """Made-up images in [0, 1]."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def onnx_file(path: Path, network: nn.Module, *example: torch.Tensor, batch: bool = True) -> Path:
    """An ONNX file of a network; `batch`: for any number of images."""
    inputs = example or (images(2),)
    sizes = tuple({0: torch.export.Dim("batch")} for _ in inputs) if batch else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network.eval(), inputs, dynamo=True, dynamic_shapes=sizes, verbose=False)
    assert program is not None
    program.save(path, external_data=False)
    return path


def int8_file(path: Path, float_file: Path, form: str = "QDQ", side: int = SIDE) -> Path:
    """What onnxruntime's own static quantization makes of a float file."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    name = onnx.load(float_file).graph.input[0].name
    generator = np.random.default_rng(0)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime leaves it untyped
        def __init__(self) -> None:
            self.left = [generator.random((4, 3, side, side), dtype=np.float32) for _ in range(3)]

        def get_next(self) -> dict[str, Any] | None:
            return {name: self.left.pop()} if self.left else None

    logging.getLogger().setLevel(logging.ERROR)
    quantize_static(float_file, path, Reader(), quant_format=QuantFormat[form], per_channel=True)
    return path
