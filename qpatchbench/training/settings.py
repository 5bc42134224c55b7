"""The settings of a training: the fields of a suite's `training` and `finetuning` sections."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """SGD with a schedule. Defaults are those of the TriQDef paper, section 4.1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=200, ge=0, description="passes over the training images")
    images_per_epoch: int | None = Field(
        default=None, gt=0, description="of the training images, other ones in every epoch; none: all of them"
    )
    batch_size: int = Field(default=128, gt=0, description="images per step")
    learning_rate: float = Field(default=0.1, gt=0, description="initial learning rate")
    schedule: Literal["step", "cosine", "constant"] = Field(
        default="step", description="step: times 0.1 at 50 % and 75 %; cosine: to zero; constant"
    )
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the training with a linear warm-up")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(default=False, description="Nesterov momentum")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 penalty on all weights but learned scales")
    gradient_clip: float | None = Field(default=None, gt=0, description="largest gradient norm, or none")
    augmentation: Literal["none", "crop", "crop_flip"] = Field(
        default="crop_flip", description="random shift by an eighth of the side, and mirroring"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(
        default="32-true", description="arithmetic of the forward pass, as Lightning Fabric names it"
    )
    compile: bool = Field(
        default=False,
        exclude_if=lambda chosen: not chosen,  # keys of before it could be chosen stay
        description="fuse the network's operators by torch.compile, which takes about a minute for a network, and "
        "a step less time than before; what a defense differentiates twice stays as it is",
    )

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate after a share `progress` (0..1) of all steps.

        >>> TrainingSettings(learning_rate=1.0).learning_rate_at(0.6)
        0.1
        """
        if progress < self.warmup:
            return self.learning_rate * max(progress / self.warmup, 0.01)
        if self.schedule == "cosine":
            share = (progress - self.warmup) / (1 - self.warmup)
            return self.learning_rate * (1 + math.cos(math.pi * share)) / 2
        if self.schedule == "step":
            return self.learning_rate * (0.01 if progress >= 0.75 else 0.1 if progress >= 0.5 else 1.0)
        return self.learning_rate
