"""No preprocessor, the bare network: the baseline of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from qpatchbench.preprocessors.base import Preprocessor


class NoPreprocessor(Preprocessor):
    """Lets the network see the images as they are; what runs is the bare network, with nothing before it."""

    expected_failures: ClassVar[Mapping[str, str]] = {"a_source_is_named": "it does nothing; there is nothing to cite"}

    @property
    def title(self) -> str:
        """Results always call it by its name."""
        return self.name

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """The images themselves."""
        return images
