"""A network of one's own: any torch.nn.Module (Paszke et al. 2019) that a function in a Python file builds.

The file is imported, so it may do whatever the user who runs it may. Its source is part of the identity, with the
modules that it imports from beside it; where it lies is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field, field_validator

from qpatchbench.errors import PluginError
from qpatchbench.labels import checked_line
from qpatchbench.models.base import ModelSource, Preprocessing
from qpatchbench.models.source_file import function_of, source_beside
from qpatchbench.origin import file_hash
from qpatchbench.types import Announced

Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
CLASSES = "num_classes"  # the one argument that is passed, where the function has it


class ModuleModel(ModelSource):
    """A network that a function in a Python file of one's own returns; it takes normalised images and gives logits."""

    name: Literal["module"] = Field(default="module", description="a network of one's own")
    files: ClassVar[tuple[str, ...]] = ("weights", "source")
    runs_code: ClassVar[bool] = True
    trial: ClassVar[Mapping[str, Any]] = {"source": "my_net.py:build"}

    source: Annotated[str, AfterValidator(checked_line)] = Field(
        description="file.py:function, or a class, that returns the network; called with num_classes where it has such "
        "an argument, else with nothing. Its code runs: name only files that you trust"
    )
    mean: tuple[Mean, Mean, Mean] = Field(
        default=(0.0, 0.0, 0.0), description="subtracted per channel from pixels in [0, 1]; default: nothing"
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        default=(1.0, 1.0, 1.0), description="divides per channel after the mean is subtracted; default: nothing"
    )
    image_size: int | None = Field(
        default=None,
        gt=0,
        description="side that the network works at, to which images are resized; none: the dataset's own",
        json_schema_extra={"unit": "pixels"},
    )

    @field_validator("source")
    @classmethod
    def _both_named(cls, source: str) -> str:
        file, colon, function = source.rpartition(":")
        if not colon or not file.endswith(".py") or not function.isidentifier():
            raise ValueError(f"expected file.py:function, such as my_net.py:build, found {source!r}")
        return source

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """A file that is not there."""
        if missing := self._missing():
            yield "source", missing

    @property
    def path(self) -> Path:
        """The Python file."""
        return Path(self.source.rpartition(":")[0]).expanduser()

    @property
    def code_beside(self) -> tuple[str, str]:
        """Name and SHA-256 of the Python file, with what it imports from beside it."""
        return self.path.name, file_hash(self._file())

    def identity(self) -> dict[str, Any]:
        """The code and the function's name instead of the file's place; the weights go by their content elsewhere."""
        own = {name: value for name, value in super().identity().items() if name not in ("source", "weights")}
        trained = {} if self.weights == "train" else {"weights": "given"}
        return {**own, **trained, "function": self.source.rpartition(":")[2], "source hash": file_hash(self._file())}

    def preprocessing(self, image_size: int) -> Preprocessing:
        """The mean and deviation given; image files, if the dataset has any, are cropped in the customary way."""
        return Preprocessing(self.image_size or image_size, 0.875, "bilinear", self.mean, self.std)

    def build(self, num_classes: int, image_size: int) -> torch.nn.Module:
        """A fresh float network: images (B, 3, image_size, image_size) in [0, 1] -> logits (B, num_classes).

        Initial weights come from torch's global generator.

        Raises:
            PluginError: the file cannot be imported, or the function returns no network; names file and line.
        """
        from qpatchbench.models.classifier import ImageClassifier

        who = f"model {self.title!r}, source {self.source}"
        function = function_of(self._file(), self.source.rpartition(":")[2], who)
        arguments = {CLASSES: num_classes} if _takes_classes(function) else {}
        with source_beside(self._file(), who):
            network = function(**arguments)
        if not isinstance(network, torch.nn.Module):
            raise PluginError(f"{who}: expected a torch.nn.Module, found {type(network).__name__}")
        return ImageClassifier(network.train(), self.mean, self.std, self.preprocessing(image_size).image_size)

    def _file(self) -> Path:
        """The Python file, which is there.

        Raises:
            PluginError: it is not.
        """
        missing = self._missing()
        if missing:
            raise PluginError(f"model {self.title!r}, source {self.source}: {missing}")
        return self.path

    def _missing(self) -> str:
        if self.path.is_file():
            return ""
        beside = sorted(each.name for each in self.path.parent.glob("*.py"))
        there = f" Python files there: {', '.join(beside)}." if beside else ""
        return f"expected a Python file, found none at {self.path.absolute()}.{there}"


def _takes_classes(function: Any) -> bool:  # noqa: ANN401 (anything that can be called)
    try:
        return CLASSES in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False
