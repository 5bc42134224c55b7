"""DiffPure (Nie et al. 2022, ICML, arXiv 2205.07460, section 3.2), with a DDPM (Ho et al. 2020, arXiv 2006.11239).

The image is drowned in noise up to a time t*, and denoised again by a diffusion model of clean images:

    x_t* = sqrt(abar_t*) x + sqrt(1 - abar_t*) e,   then x_t -> x_t-1 down to x_0   equation 2; Ho et al., algorithm 2

The paper solves the reverse equation of a score network; here the DDPM's own steps are taken, one per time (own choice,
for the networks that the library diffusers reads). `model` names a folder or a hub model with a UNet2DModel that
predicts e, for example google/ddpm-cifar10-32; where it is empty a small one is trained on training images.

Noise hides a gradient rather than removing it. Attacks follow the identity in its place, averaged over many draws
(BPDA and EOT), since the exact gradient through all steps of the network takes as many backward passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.training.diffusion import TIMES, alphas, denoised_from, new_config, noise_predictor, read_model
from qpatchbench.ops.training.diffusion import trained as trained_model
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.types import Announced


class DiffPure(Preprocessor):
    """Drowns the image in noise and lets a diffusion model bring it back."""

    differentiable: ClassVar[bool] = False
    randomized: ClassVar[bool] = True
    learns_from: ClassVar[Literal["calibration", "train"]] = "train"
    trial: ClassVar[Mapping[str, Any]] = {"steps": 2, "t_star": 0.003, "channels": 8}

    t_star: float = Field(
        default=0.1, ge=0, le=1, description="how far into the noise, as a share of 1000 times; 0 changes nothing"
    )
    model: str = Field(default="", description="folder or hub name of a UNet2DModel; empty: one is trained")
    revision: str | None = Field(default=None, description="commit of a hub model, so that it stays the same")
    channels: int = Field(default=32, ge=8, multiple_of=8, description="of the trained one's first level")
    steps: int = Field(default=3000, ge=1, description="of its training, in batches of 32")
    learning_rate: float = Field(default=1e-3, gt=0, description="of its training, by Adam")

    def identity(self) -> dict[str, Any]:
        """All fields, and what lies in the folder of a local model."""
        files = sorted(path for path in Path(self.model).rglob("*") if path.is_file()) if self.model else []
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        return {**super().identity(), **({"files": hashes} if hashes else {})}

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """The model that is trained halves the image once."""
        if not self.model and known.side % 2:
            yield "", f"expected images of an even side for the model that is trained, found {known.side} pixels"

    def fit(self, calibration: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """The weights of the diffusion model, and its configuration as text in bytes."""
        if self.model:
            return read_model(self.model, self.revision)
        config = new_config(calibration.shape[-1], self.channels)
        return trained_model(config, calibration, self.steps, self.learning_rate)

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> purified ones; t* + 1 draws of noise for each image.

        Raises:
            QPatchBenchError: the model is one for images of another side.
        """
        times = round(self.t_star * TIMES)
        if not times:
            return images
        predictor = noise_predictor(state)
        if predictor.side is not None and predictor.side != images.shape[-1]:
            raise QPatchBenchError(
                f"{self.title}: expected images of {predictor.side} pixels, which its model knows, found "
                f"{images.shape[-1]}; set model to another one, or to nothing"
            )
        with torch.no_grad():
            draws = [torch.randn(times, *image.shape, generator=generator) for image in images]
            noise = torch.stack(draws, dim=1).to(images.device, torch.float32)
            kept = alphas(images.device)[times - 1]
            start = kept.sqrt() * (2 * images.float() - 1) + (1 - kept).sqrt() * noise[0]
            clean = denoised_from(start, predictor, noise[1:])
        return ((clean + 1) / 2).clamp(0, 1).to(images.dtype)
