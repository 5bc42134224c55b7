"""A network that is deployed already: ONNX, a torch.export program, TorchScript, or a function of a Python file."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator

from qpatchbench.errors import WeightsError, suggestion
from qpatchbench.labels import checked_line, is_label
from qpatchbench.models.base import ModelSource, Preprocessing, Ready
from qpatchbench.types import Bits

if TYPE_CHECKING:
    from qpatchbench.models.deployed.deployed_network import DeployedNetwork, InputRules
    from qpatchbench.models.deployed.opened import Opened

CHANNELS = 3
PROBES = 4  # images by which answers are judged
# Ending of the file -> what answers from it, and the distribution whose version counts.
RUNTIMES: Mapping[str, tuple[str, str]] = {
    ".onnx": ("onnxruntime", "onnxruntime"),
    ".pt2": ("torch-export", "torch"),
    ".pt": ("torchscript", "torch"),
    ".ts": ("torchscript", "torch"),
    ".torchscript": ("torchscript", "torch"),
    ".py": ("python", "torch"),
}
Channels = tuple[float, float, float]


class DeployedModel(ModelSource):
    """A file that a runtime answers from, float or int8: it gives logits and no gradient, and nothing trains it."""

    trial: ClassVar[Mapping[str, Any]] = {"file": "model.onnx", "bits": 8}
    files: ClassVar[tuple[str, ...]] = ("file",)
    expected_failures: ClassVar[Mapping[str, str]] = {"a_source_is_named": "the file has one, which nobody knows here"}

    weights: str = Field(default="file", pattern="^file$", description="file: they are in it")
    file: Annotated[str, AfterValidator(checked_line)] = Field(
        min_length=1,
        description="model.onnx (onnxruntime), model.pt2 (torch.export, PT2E, torchao), model.pt (TorchScript), or "
        "model.py:function, which takes images (B, 3, H, W) and returns logits",
    )
    bits: Bits = Field(description="bits that it is said to have, w8a8 for example; V15 reads them off an ONNX file")
    sibling: str | None = Field(
        default=None,
        description="the model of this suite that it was made from: its patches are evaluated on this one, and its "
        "images are decoded as that one wants them",
    )
    size: int | None = Field(
        default=None,
        gt=0,
        description="side of the images that it takes; none = what the file says, else that of the dataset",
        json_schema_extra={"unit": "pixels"},
    )
    layout: Literal["nchw", "nhwc"] | None = Field(
        default=None, description="order of the axes that it takes; none = what the file's shape says, else nchw"
    )
    range: tuple[float, float] = Field(
        default=(0.0, 1.0), description="what black and white become: [0, 255] for a network of 8-bit values"
    )
    mean: Channels = Field(default=(0.0, 0.0, 0.0), description="subtracted per channel, in units of the range")
    std: Channels = Field(default=(1.0, 1.0, 1.0), description="divided by per channel, in units of the range")
    resize: Literal["bilinear", "none"] = Field(
        default="bilinear", description="how images of another size are fitted; none refuses them"
    )
    answers: Literal["logits", "probabilities"] = Field(
        default="logits", description="probabilities: it ends with a softmax, and the logarithm is taken"
    )
    output: str | None = Field(default=None, description="name of the output, where an ONNX model has several")
    provider: str = Field(
        default="CPUExecutionProvider",
        pattern=r"^\w+ExecutionProvider$",
        description="execution provider of onnxruntime",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self._suffix not in RUNTIMES:
            raise ValueError(
                f"expected a file that ends in {', '.join(RUNTIMES)}, found {self.file!r}.{suggestion('', RUNTIMES)}"
            )
        if self._suffix == ".py" and not self._function.isidentifier():
            raise ValueError(f"expected the function behind the file, {self._path}:FUNCTION, found {self.file!r}")
        if self.label is None and not is_label(self._path.stem):
            raise ValueError(f"expected a label beside a file of that name, found {self.file!r} without")
        if min(self.std) <= 0 or self.range[0] == self.range[1]:
            raise ValueError(f"expected std above 0 and a range of two values, found {self.std} and {self.range}")
        return self

    @property
    def title(self) -> str:
        """The label, or the file's name without its ending."""
        return self.label or self._path.stem

    @property
    def ready(self) -> Ready:
        """Bits, runtime and sibling."""
        runtime, distribution = RUNTIMES[self._suffix]
        if runtime == "onnxruntime":
            runtime = f"{runtime}-{self.provider.removesuffix('ExecutionProvider').lower()}"
        return Ready(self.bits, runtime, _version(distribution), self.sibling, code=self._suffix == ".py")

    def identity(self) -> dict[str, Any]:
        """Without the file's name and what is said of it: the content counts, as `fingerprint` has it."""
        left_out = ("file", "sibling", "bits")
        return {name: value for name, value in super().identity().items() if name not in left_out}

    def fingerprint(self) -> str:
        """SHA-256 of the file.

        Raises:
            WeightsError: there is none.
        """
        with self._found().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def preprocessing(self, image_size: int) -> Preprocessing:
        """As its fields say, for pixels in [0, 1]."""
        low, high = self.range
        mean = tuple((value - low) / (high - low) for value in self.mean)
        std = tuple(value / (high - low) for value in self.std)
        return Preprocessing(self.size or image_size, 1.0, "bilinear", mean, std)

    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """The network of the file, checked on a few made-up images.

        Raises:
            WeightsError: the file is missing, unsafe, or takes and answers something else than its fields say.
        """
        from qpatchbench.models.deployed.deployed_network import DeployedNetwork

        opened = self._opened()
        size = self._found().stat().st_size
        network = DeployedNetwork(opened, self._rules(opened, image_size), self.fingerprint(), size)
        network.eval()
        self._judge(network, num_classes, image_size)
        return network

    def load(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """As `build`: the file holds the weights."""
        return self.build(num_classes, image_size)

    @property
    def _path(self) -> Path:
        return Path(self.file.partition(".py:")[0] + (".py" if ".py:" in self.file else ""))

    @property
    def _function(self) -> str:
        return self.file.partition(".py:")[2]

    @property
    def _suffix(self) -> str:
        return self._path.suffix.lower()

    def _found(self) -> Path:
        path = self._path.expanduser()
        if not path.is_file():
            near = [entry.name for entry in path.parent.glob("*") if entry.suffix in RUNTIMES]
            raise WeightsError(
                f"file {str(path)!r}: no file {path.absolute()}.{suggestion(path.name, near) if near else ''}"
            )
        return path

    def _opened(self) -> Opened:
        from qpatchbench.models.deployed.exported_program import open_program
        from qpatchbench.models.deployed.onnx_model import open_onnx
        from qpatchbench.models.deployed.python_function import open_function
        from qpatchbench.models.deployed.torchscript import open_script

        path = self._found()
        if self._suffix == ".onnx":
            return open_onnx(path, self.provider, self.output)
        if self._suffix == ".pt2":
            return open_program(path)
        return open_function(path, self._function) if self._suffix == ".py" else open_script(path)

    def _rules(self, opened: Opened, image_size: int) -> InputRules:
        """The fields, and where they say nothing the file's shape; both must agree."""
        from qpatchbench.models.deployed.deployed_network import InputRules

        shape = opened.shape
        if shape and len(shape) != CHANNELS + 1:
            raise WeightsError(f"{self.file}: expected images BxCxHxW or BxHxWxC as its input, found {_text(shape)}")
        read = next((name for axis, name in ((1, "nchw"), (3, "nhwc")) if shape and shape[axis] == CHANNELS), None)
        layout = self.layout or read or "nchw"
        if read is not None and layout != read:
            raise WeightsError(
                f"{self.file}: its input is {_text(shape)}, which is {read}, found layout: {layout}. Write "
                f"layout: {read}, or leave it out"
            )
        if shape and read is None and None not in (shape[1], shape[3]):
            raise WeightsError(f"{self.file}: expected {CHANNELS} channels in its input, found {_text(shape)}")
        sides = (shape[2:] if layout == "nchw" else shape[1:3]) if shape else (None, None)
        said = {side for side in sides if side is not None}
        if len(said) > 1 or (said and self.size is not None and self.size not in said):
            asked = f" and size: {self.size}" if self.size else ""
            raise WeightsError(f"{self.file}: expected square images of one size, found {_text(shape)}{asked}")
        return InputRules(
            side=self.size or next(iter(said), image_size),
            channels_last=layout == "nhwc",
            low=self.range[0],
            high=self.range[1],
            mean=self.mean,
            std=self.std,
            resizes=self.resize == "bilinear",
            batch_size=shape[0] if shape else None,
            probabilities=self.answers == "probabilities",
        )

    def _judge(self, network: DeployedNetwork, num_classes: int, image_size: int) -> None:
        """Show it made-up images, each of another brightness, and look at the answers."""
        generator = torch.Generator().manual_seed(0)
        shades = torch.linspace(0.2, 1, PROBES).view(-1, 1, 1, 1)
        images = shades * torch.rand(PROBES, CHANNELS, image_size, image_size, generator=generator)
        found = network(images)
        if found.shape[-1] != num_classes:
            raise WeightsError(
                f"{self.file}: expected logits of {num_classes} classes, as the dataset has, found {found.shape[-1]}; "
                "use the dataset that it was trained on, or name the right output"
            )
        raw = found.exp() if self.answers == "probabilities" else found
        whole = bool(((raw >= 0).all()) & ((raw.sum(dim=1) - 1).abs() < 1e-3).all())
        if whole and self.answers == "logits":
            raise WeightsError(
                f"{self.file}: it answers with probabilities (every row sums to one), expected logits. Write "
                "answers: probabilities, or export it without the softmax"
            )
        if not whole and self.answers == "probabilities":
            sums = f"{float(raw.sum(dim=1).min()):.3g} to {float(raw.sum(dim=1).max()):.3g}"
            raise WeightsError(f"{self.file}: expected probabilities, rows that sum to one, found sums of {sums}")


def _text(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
