"""DiffPure: each step against the library's own sampler, limit cases, and a small model trained on digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.training.diffusion import TIMES, alphas, denoised_from, new_config, noise_predictor
from qpatchbench.preprocessors.diffpure import DiffPure

SIDE = 8


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def state() -> Mapping[str, torch.Tensor]:
    return DiffPure(name="diffpure", steps=3, channels=8).fit(images(16))


def purified(state: Mapping[str, torch.Tensor], t_star: float, shown: torch.Tensor, seed: int = 0) -> torch.Tensor:
    own = DiffPure(name="diffpure", t_star=t_star)
    return own.apply(shown, state, torch.Generator().manual_seed(seed))


def test_variances_are_those_of_the_library() -> None:
    scheduler = DDPMScheduler(TIMES, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    torch.testing.assert_close(alphas(torch.device("cpu")).float(), scheduler.alphas_cumprod)


def test_every_step_is_that_of_the_library(state: Mapping[str, torch.Tensor]) -> None:
    scheduler = DDPMScheduler(TIMES, beta_start=1e-4, beta_end=0.02, variance_type="fixed_large", clip_sample=True)
    predictor = noise_predictor(state)
    noisy = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    noise = torch.stack([torch.randn(noisy.shape, generator=torch.Generator().manual_seed(t)) for t in (4, 3, 2, 1)])
    # Its tables are float32, in which 1 - abar of the first times has four digits.
    kept = alphas(torch.device("cpu"))
    scheduler.alphas_cumprod, scheduler.one = kept, torch.tensor(1.0, dtype=torch.float64)
    expected = noisy
    with torch.no_grad():
        for time in range(4, -1, -1):
            step = scheduler.step(
                predictor(expected, time), time, expected, generator=torch.Generator().manual_seed(time)
            )
            expected = step.prev_sample
        found = denoised_from(noisy, predictor, noise)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_noise_changes_nothing_and_more_noise_more(state: Mapping[str, torch.Tensor]) -> None:
    assert torch.equal(purified(state, 0, images()), images())
    errors = [float((purified(state, t_star, images()) - images()).square().mean()) for t_star in (0.002, 0.02, 0.1)]
    assert errors[0] < errors[1] < errors[2]


def test_noise_is_drawn_image_after_image(state: Mapping[str, torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    own = DiffPure(name="diffpure", t_star=0.003)
    alone = torch.cat([own.apply(part, state, generator) for part in torch.split(images(4), 1)])
    torch.testing.assert_close(alone, purified(state, 0.003, images(4), seed=3), atol=1e-5, rtol=0)
    assert not torch.equal(purified(state, 0.003, images(4), seed=4), alone)


def test_a_model_of_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        network = UNet2DModel.from_config(new_config(SIDE, 8)).eval()
    network.save_pretrained(tmp_path)
    own = DiffPure(name="diffpure", model=str(tmp_path), t_star=0.01)
    predictor = noise_predictor(own.fit(images()))
    with torch.no_grad():
        assert torch.equal(predictor(images(), 5), network(images(), 5).sample)
    before = own.identity()
    network.conv_in.bias.data += 1
    network.save_pretrained(tmp_path)
    assert own.identity() != before, "other weights in the folder are another preprocessor"
    message = "diffpure: expected images of 8 pixels, which its model knows, found 16"
    with pytest.raises(QPatchBenchError, match=message):
        own.apply(torch.zeros(1, 3, 16, 16), own.fit(images()), torch.Generator())


def test_a_trained_model_moves_noise_towards_what_it_knows() -> None:
    # All images are flat, of one random grey each: what is left of noise within an image is the model's error.
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(64, 3, 1, 1, generator=generator).expand(-1, -1, SIDE, SIDE).clone()
    known = DiffPure(name="diffpure", steps=150, channels=16, learning_rate=2e-3).fit(flat)
    shown = (flat[:8] + 0.1 * torch.randn(8, 3, SIDE, SIDE, generator=generator)).clamp(0, 1)
    found = purified(known, 0.06, shown)
    assert float(found.std(dim=(2, 3)).mean()) < 0.6 * float(shown.std(dim=(2, 3)).mean())
