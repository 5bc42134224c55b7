"""One small policy per image over sequences of choices, trained by REINFORCE (Williams 1992) in batched arithmetic.

The agent of PatchAttack (Yang, Kortylewski, Xie, Cao, Yuille 2020, arXiv 2004.05682) as in the authors' code: an LSTM
makes one categorical choice after the other; a choice is embedded as the next input, and has a linear head of its own;
the first input is random and not learnt. Every image has weights, optimiser state and draws of its own: it may leave
the batch at any time, and its choices do not depend on the others.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch

from qpatchbench.ops.randomness import ImageDraws

HIDDEN = 30  # units of the LSTM, and length of an embedding
DECAYS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as published


class Policies(NamedTuple):
    """N policies over the same choices.

    Attributes:
        first: (N, 1, HIDDEN), the input of the first choice.
        weights: (N, W), what is learnt; `_unpacked` says in which order.
        means, squares: (N, W), Adam's running means of the gradient and its square.
        steps: (N, 1), updates so far.
    """

    first: torch.Tensor
    weights: torch.Tensor
    means: torch.Tensor
    squares: torch.Tensor
    steps: torch.Tensor

    def chosen(self, index: torch.Tensor) -> Policies:
        """The policies of some images, (M,) int64 or (N,) bool."""
        return Policies(*(value[index] for value in self))

    def put(self, index: torch.Tensor, other: Policies) -> Policies:
        """With the `other` ones in the places `index`, (M,) int64 or (N,) bool."""
        return Policies(*(own.index_put((index,), new) for own, new in zip(self, other, strict=True)))


class Sampled(NamedTuple):
    """Sequences of N images: choices (N, S, K) int64, and log P of each sequence (N, S) with a graph to `weights`."""

    choices: torch.Tensor
    log_probabilities: torch.Tensor
    weights: torch.Tensor


def fresh_policies(choices: tuple[int, ...], draws: ImageDraws) -> Policies:
    """Untrained policies over `choices[k]` alternatives in place k, with the initial distributions that torch uses."""
    *cell_and_heads, embeddings = (sum(math.prod(shape) for shape in part) for part in _shapes(choices))
    flat = (2 * draws.uniform(sum(cell_and_heads)) - 1) / math.sqrt(HIDDEN)
    normal = _normal(draws, HIDDEN + embeddings)
    weights = torch.cat((flat, normal[:, HIDDEN:]), dim=1)
    nothing = torch.zeros_like(weights)
    return Policies(normal[:, None, :HIDDEN], weights, nothing, nothing, torch.zeros_like(weights[:, :1]))


def sampled(policies: Policies, choices: tuple[int, ...], count: int, draws: ImageDraws) -> Sampled:
    """`count` sequences from every policy."""
    weights = policies.weights.detach().requires_grad_()
    cell, heads, embeddings = _unpacked(weights, choices)
    uniforms = draws.uniform(count, len(choices))
    inputs = policies.first.expand(-1, count, -1)
    hidden = memory = torch.zeros_like(inputs)
    made, log_probabilities = [], torch.zeros_like(inputs[..., 0])
    for place in range(len(choices)):
        gates = inputs @ cell[0] + hidden @ cell[1] + cell[2] + cell[3]
        enter, forget, content, leave = gates.chunk(4, dim=2)
        memory = forget.sigmoid() * memory + enter.sigmoid() * content.tanh()
        hidden = leave.sigmoid() * memory.tanh()
        logs = (hidden @ heads[2 * place] + heads[2 * place + 1]).log_softmax(dim=2)
        choice = _drawn(logs.detach().exp(), uniforms[..., place])
        log_probabilities = log_probabilities + logs.gather(2, choice.unsqueeze(2)).squeeze(2)
        made.append(choice)
        if place < len(embeddings):
            inputs = embeddings[place].gather(1, choice.unsqueeze(2).expand(-1, -1, HIDDEN))
    return Sampled(torch.stack(made, dim=2), log_probabilities, weights)


def reinforced(policies: Policies, sample: Sampled, rewards: torch.Tensor, step_size: float) -> Policies:
    """The policies after one step of Adam towards sequences of more reward.

    Args:
        policies: those that the sequences were sampled from.
        sample: the sequences.
        rewards: (N, S), finite; standardised over each image's own sequences, so that their scale is of no matter.
        step_size: Adam's learning rate.
    """
    deviations = rewards - rewards.mean(dim=1, keepdim=True)
    # Epsilon as in the authors' code; it also makes equal rewards, whose deviation is 0, teach nothing.
    spread = deviations.square().mean(dim=1, keepdim=True).sqrt() + torch.finfo(rewards.dtype).eps
    loss = -(sample.log_probabilities * deviations / spread).mean(dim=1).sum()
    (gradients,) = torch.autograd.grad(loss, sample.weights)
    first, second = DECAYS
    steps = policies.steps + 1
    means = first * policies.means + (1 - first) * gradients
    squares = second * policies.squares + (1 - second) * gradients.square()
    change = (means / (1 - first**steps)) / ((squares / (1 - second**steps)).sqrt() + EPSILON)
    return Policies(policies.first, policies.weights - step_size * change, means, squares, steps)


def _shapes(choices: tuple[int, ...]) -> tuple[list[tuple[int, int]], ...]:
    """Shapes of the learnt matrices: of the cell, of the heads, and of the embeddings of all choices but the last."""
    cell = [(HIDDEN, 4 * HIDDEN)] * 2 + [(1, 4 * HIDDEN)] * 2  # of inputs, of hidden units; torch too has two biases
    heads = [shape for count in choices for shape in ((HIDDEN, count), (1, count))]
    return cell, heads, [(count, HIDDEN) for count in choices[:-1]]


def _unpacked(weights: torch.Tensor, choices: tuple[int, ...]) -> list[list[torch.Tensor]]:
    """Weights (N, W) as matrices (N, ..) of the cell, the heads and the embeddings."""
    parts = _shapes(choices)
    flat = torch.split(weights, [math.prod(shape) for part in parts for shape in part], dim=1)
    ends = [0, *(sum(len(part) for part in parts[: index + 1]) for index in range(len(parts)))]
    return [
        [values.view(-1, *shape) for values, shape in zip(flat[start:end], part, strict=True)]
        for (start, end), part in zip(pairwise(ends), parts, strict=True)
    ]


def _drawn(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """(N, S, A) and (N, S) in [0, 1) -> the alternative in whose share of the unit interval each number falls."""
    shares = probabilities.cumsum(dim=2)
    # The last share ends at 1 only up to rounding; scaled, no number lies beyond it, or in a share of nothing.
    found = torch.searchsorted(shares, (uniforms * shares[..., -1]).unsqueeze(2), right=True).squeeze(2)
    return found.clamp(max=probabilities.shape[2] - 1)


def _normal(draws: ImageDraws, count: int) -> torch.Tensor:
    """(N, count) of the standard normal distribution (Box, Muller 1958)."""
    radius = (-2 * torch.log1p(-draws.uniform(count))).sqrt()
    return radius * torch.cos(2 * math.pi * draws.uniform(count))
