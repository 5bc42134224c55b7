"""The wrapper of a deployed file: pixels in [0, 1] go in as the file wants them, logits come out, without gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from qpatchbench.errors import QPatchBenchError
from qpatchbench.models.deployed.opened import Opened
from qpatchbench.types import StatedLayer

SMALLEST = 1e-30  # probability whose logarithm is still finite


@dataclass(frozen=True)
class InputRules:
    """How an image becomes what the file takes.

    Attributes:
        side: pixels.
        channels_last: whether images go in as (B, H, W, 3).
        low, high: what 0 and 1 become, before mean and std.
        mean, std: per channel, of values between low and high.
        resizes: whether images of another side are resized, bilinearly.
        batch_size: how many images it takes at once; None: any number.
        probabilities: whether it answers with those, of which the logarithm is taken.
    """

    side: int
    channels_last: bool
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizes: bool
    batch_size: int | None
    probabilities: bool


class DeployedNetwork(nn.Module):
    """Answers from a file.

    Attributes:
        digest: SHA-256 of the file, (32,) uint8; all there is in the state dict.

    Args:
        opened: the file.
        rules: of its input.
        digest: 64 hex digits.
        size: of the file, bytes.
    """

    digest: torch.Tensor

    def __init__(self, opened: Opened, rules: InputRules, digest: str, size: int) -> None:
        super().__init__()
        self.opened, self.rules, self.file_bytes = opened, rules, size
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K) float32 on the same device, which carry no gradient.

        Raises:
            QPatchBenchError: the images are of another side, and the file resizes none.
        """
        with torch.no_grad():
            inputs = self.inputs(images.detach())
            size = self.rules.batch_size or max(len(inputs), 1)
            answers = torch.cat([self._answered(part) for part in torch.split(inputs, size)])
            if self.rules.probabilities:
                answers = answers.clamp_min(SMALLEST).log()
        return answers.to(images.device)

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] as the file takes them, on the CPU."""
        rules, images = self.rules, images.cpu().float()
        if images.shape[-2:] != (rules.side, rules.side):
            if not rules.resizes:
                found = "x".join(map(str, images.shape[-2:]))
                raise QPatchBenchError(
                    f"expected images of {rules.side}x{rules.side} pixels, which the file takes, found {found}; give "
                    "the dataset that image_size, or the model resize: bilinear"
                )
            size = (rules.side, rules.side)
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (rules.mean, rules.std))
        inputs = (rules.low + (rules.high - rules.low) * images - mean) / std
        if rules.channels_last:
            inputs = inputs.permute(0, 2, 3, 1)
        if not self.opened.dtype.is_floating_point:
            limits = torch.iinfo(self.opened.dtype)
            inputs = inputs.round().clamp(limits.min, limits.max)
        return inputs.to(self.opened.dtype).contiguous()

    def stated_layers(self, images: torch.Tensor) -> tuple[StatedLayer, ...] | None:
        """The operators that multiply by weights, looked at on the first of the images; None: the file tells none."""
        if self.opened.layers is None:
            return None
        return self.opened.layers(self._filled(self.inputs(images[:1])))

    def _answered(self, inputs: torch.Tensor) -> torch.Tensor:
        answers = self.opened.answer(self._filled(inputs))
        if not isinstance(answers, torch.Tensor) or answers.ndim != 2:
            found = "x".join(map(str, answers.shape)) if isinstance(answers, torch.Tensor) else type(answers).__name__
            raise QPatchBenchError(f"expected logits BxK for a batch of images, found {found}")
        return answers[: len(inputs)].float()

    def _filled(self, inputs: torch.Tensor) -> torch.Tensor:
        """A batch of the size that the file wants: the last image again where there are too few."""
        missing = (self.rules.batch_size or 0) - len(inputs)
        return torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])]) if missing > 0 else inputs
