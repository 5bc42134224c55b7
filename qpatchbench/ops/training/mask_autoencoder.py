"""A sparse autoencoder of patch masks (Tarchoun et al. 2023, CVPR, section 4.3; Ng 2011, Sparse autoencoder).

One hidden layer of 100 sigmoid units between 32 x 32 pixels and as many. Loss of N masks:

    1/N sum |x - x'|^2 + 0.004 * 1/2 sum w^2 + 4 * sum over units KL(0.15 || mean activation)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

GRID, HIDDEN = 32, 100
DECAY, SPARSITY, PROPORTION = 0.004, 4.0, 0.15
BATCH, LEARNING_RATE = 64, 0.01
SMALLEST, LARGEST = 4, 16  # sides of the squares it knows, of 32


def whole_masks(count: int, generator: torch.Generator) -> torch.Tensor:
    """Squares of sides 4..16 at uniform places of 32 x 32 pixels: (count, 32, 32) float32 in {0, 1}."""
    draws = torch.rand(3, count, generator=generator)
    sides = SMALLEST + (draws[0] * (LARGEST - SMALLEST + 1)).long()
    tops, lefts = ((draws[axis] * (GRID - sides + 1)).long() for axis in (1, 2))
    places = torch.arange(GRID)
    rows, columns = ((places >= start[:, None]) & (places < (start + sides)[:, None]) for start in (tops, lefts))
    return (rows[:, :, None] & columns[:, None, :]).float()


def trained_on(masks: torch.Tensor, epochs: int, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
    """Weights of an autoencoder trained on masks (N, 32, 32) for `epochs`; drawn from `generator` alone."""
    pixels = GRID * GRID
    bound = (6 / (pixels + HIDDEN)) ** 0.5
    shapes = {"encoder": (HIDDEN, pixels), "decoder": (pixels, HIDDEN)}
    state = {name: (2 * torch.rand(shape, generator=generator) - 1) * bound for name, shape in shapes.items()}
    state |= {"hidden_bias": torch.zeros(HIDDEN), "output_bias": torch.zeros(pixels)}
    weights = {name: value.requires_grad_() for name, value in state.items()}
    optimizer = torch.optim.Adam(weights.values(), LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(epochs):
            for part in torch.split(torch.randperm(len(masks), generator=generator), BATCH):
                loss = sparse_loss(masks[part], weights)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                optimizer.step()
    return {name: value.detach() for name, value in weights.items()}


def sparse_loss(masks: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss above, a scalar."""
    hidden, output = _passed(masks, state)
    mean = hidden.mean(dim=0)
    divergence = PROPORTION * (PROPORTION / mean).log() + (1 - PROPORTION) * ((1 - PROPORTION) / (1 - mean)).log()
    size = sum(state[name].square().sum() for name in ("encoder", "decoder"))
    return (masks.flatten(1) - output).square().sum(dim=1).mean() + DECAY * size / 2 + SPARSITY * divergence.sum()


def completed(masks: torch.Tensor, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Masks (B, 32, 32) in [0, 1] -> what the autoencoder makes of them, (B, 32, 32) in (0, 1)."""
    with torch.no_grad():
        return _passed(masks, state)[1].view(masks.shape)


def _passed(masks: torch.Tensor, state: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden activations (B, 100) and output (B, 1024)."""
    weights = {name: state[name].to(masks) for name in ("encoder", "decoder", "hidden_bias", "output_bias")}
    hidden = torch.sigmoid(masks.flatten(1) @ weights["encoder"].T + weights["hidden_bias"])
    return hidden, torch.sigmoid(hidden @ weights["decoder"].T + weights["output_bias"])
