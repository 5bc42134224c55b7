"""Denoising diffusion (Ho, Jain, Abbeel 2020, arXiv 2006.11239): training, and the way back from noise.

Networks are UNet2DModels of the library diffusers, which predict the noise in images in [-1, 1]. Times 0..999 have
variances beta from 1e-4 to 0.02, linearly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from qpatchbench.errors import QPatchBenchError

TIMES = 1000
FIRST_BETA, LAST_BETA = 1e-4, 0.02
BATCH = 32
CONFIG = "config"


class NoisePredictor(NamedTuple):
    """A network and its weights.

    Attributes:
        module: without weights of its own.
        weights: by name.
        side: of the images it was made for, pixels; None where it takes any.
    """

    module: torch.nn.Module
    weights: Mapping[str, torch.Tensor]
    side: int | None

    def __call__(self, images: torch.Tensor, time: int) -> torch.Tensor:
        """Noisy images (B, 3, H, W) in [-1, 1] at a time -> the noise in them, of the same shape."""
        times = torch.full((len(images),), time, device=images.device)
        noise: torch.Tensor = torch.func.functional_call(self.module, dict(self.weights), (images, times)).sample
        return noise


def betas(device: torch.device) -> torch.Tensor:
    """Variance that each time adds, (1000,) float64: as float32, 1 - abar of the first times has few digits left."""
    return torch.linspace(FIRST_BETA, LAST_BETA, TIMES, device=device, dtype=torch.float64)


def alphas(device: torch.device) -> torch.Tensor:
    """Share of the image's variance that is left at each time, abar, (1000,) float64."""
    return (1 - betas(device)).cumprod(dim=0)


def denoised_from(noisy: torch.Tensor, predictor: NoisePredictor, noise: torch.Tensor) -> torch.Tensor:
    """Algorithm 2 from time len(noise) down to 0, with variances beta ("fixed large") and x_0 clipped to [-1, 1].

    Args:
        noisy: (B, 3, H, W) float32, images at time len(noise).
        predictor: of the noise in them.
        noise: (T, B, 3, H, W), what each step but the last adds.

    Returns:
        (B, 3, H, W) float32 in [-1, 1].
    """
    beta, kept = betas(noisy.device), alphas(noisy.device)
    images = noisy
    for time in range(len(noise), -1, -1):
        before = kept[time - 1] if time else torch.ones_like(kept[0])
        found = (images - (1 - kept[time]).sqrt() * predictor(images, time)) / kept[time].sqrt()
        of_clean = before.sqrt() * beta[time] / (1 - kept[time])
        of_noisy = (1 - beta[time]).sqrt() * (1 - before) / (1 - kept[time])
        images = of_clean * found.clamp(-1, 1) + of_noisy * images
        if time:
            images = images + beta[time].sqrt() * noise[len(noise) - time]
    return images


def new_config(side: int, channels: int) -> dict[str, Any]:
    """A UNet of two levels for square images; about a million weights at 32 channels."""
    return {
        "sample_size": side,
        "block_out_channels": [channels, 2 * channels],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "norm_num_groups": 8,
        "attention_head_dim": 8,
    }


def trained(
    config: Mapping[str, Any], images: torch.Tensor, steps: int, learning_rate: float, seed: int = 0
) -> Mapping[str, torch.Tensor]:
    """Algorithm 1 on images (N, 3, H, W) in [0, 1]: weights by name, and the configuration.

    Raises:
        QPatchBenchError: the library is not there, or the side of the images is odd.
    """
    if images.shape[-1] % 2:
        raise QPatchBenchError(f"expected images of an even side for a UNet of two levels, found {images.shape[-1]}")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)  # the library draws first weights from the global generator
        network = _unet().from_config(dict(config))
        optimizer = torch.optim.Adam(network.parameters(), learning_rate)
        kept = alphas(images.device)
        for _ in range(steps):
            clean = 2 * images[torch.randint(len(images), (BATCH,), generator=generator)] - 1
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            times = torch.randint(TIMES, (len(clean),), generator=generator)
            share = kept[times].view(-1, 1, 1, 1).to(clean)
            loss = (network(share.sqrt() * clean + (1 - share).sqrt() * noise, times).sample - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _state_of(network)


def read_model(name: str, revision: str | None) -> Mapping[str, torch.Tensor]:
    """Weights and configuration of a UNet2DModel in a folder or on the hub."""
    return _state_of(_unet().from_pretrained(name, revision=revision))


def noise_predictor(state: Mapping[str, torch.Tensor]) -> NoisePredictor:
    """The network that `trained` or `read_model` returned."""
    text = bytes(state[CONFIG].cpu().tolist()).decode()
    weights = {name: value for name, value in state.items() if name != CONFIG}
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    side = json.loads(text).get("sample_size")
    return NoisePredictor(_without_weights(text), weights, side if isinstance(side, int) else None)


def _state_of(network: Any) -> Mapping[str, torch.Tensor]:  # noqa: ANN401 (of an optional library)
    text = json.dumps(dict(network.config), sort_keys=True, default=str)
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return {**weights, CONFIG: torch.tensor(list(text.encode()), dtype=torch.uint8)}


@lru_cache(maxsize=2)
def _without_weights(text: str) -> torch.nn.Module:
    with torch.device("meta"):
        network: torch.nn.Module = _unet().from_config(json.loads(text))
    return network.eval().requires_grad_(False)


def _unet() -> Any:  # noqa: ANN401 (of an optional library)
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise QPatchBenchError(
            "diffpure: expected the library diffusers, found none; pip install 'qpatchbench[diffpure]'"
        ) from None
    return UNet2DModel
