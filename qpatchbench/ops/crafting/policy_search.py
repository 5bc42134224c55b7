"""The search of PatchAttack: a policy per image proposes, is told the losses, and learns, until a proposal succeeds.

Yang, Kortylewski, Xie, Cao, Yuille 2020 (arXiv 2004.05682). `ops.crafting.policies` is what learns. A policy has
converged when its mean reward moves on by a second difference of less than 1e-4 (the authors' code); a fresh one takes
its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.policies import Policies, fresh_policies, reinforced, sampled
from qpatchbench.ops.randomness import ImageDraws

CONVERGED = 1e-4  # second difference of the mean reward

# Positions (A,) of the images still searched for, and choices (A, S, K) -> losses and success, (A, S) each.
Try: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], tuple["torch.Tensor", "torch.Tensor"]]
# Told the queries per image so far, the mean of the lowest losses, and the share of images that succeeded.
Report: TypeAlias = Callable[[int, float, float], None]


class SearchBudget(NamedTuple):
    """How long a search may be.

    Attributes:
        queries: proposals per image.
        samples: of which so many per step of a policy.
        step_size: Adam learning rate of a policy.
    """

    queries: int
    samples: int
    step_size: float


class FoundBySearch(NamedTuple):
    """The best of B images.

    Attributes:
        choices: (B, K) int64.
        losses: (B,).
        queries: (B,) int64, spent until the first success, or in all.
        history: (steps,), the mean of the lowest losses after every step.
    """

    choices: torch.Tensor
    losses: torch.Tensor
    queries: torch.Tensor
    history: torch.Tensor


def policy_search(
    attempt: Try,
    alternatives: tuple[int, ...],
    budget: SearchBudget,
    draws: ImageDraws,
    fresh: ImageDraws,
    report: Report,
) -> FoundBySearch:
    """Search for each of B images on its own; an image leaves with the first step that succeeds.

    Args:
        attempt: shows proposals to the network.
        alternatives: how many there are for each of the K choices.
        budget: of every image.
        draws: a stream per image, for proposals.
        fresh: a stream per image, for new policies.
        report: told after every step.

    Raises:
        AttackError: a loss is not finite.
    """
    count, device = len(draws), draws.seeds.device
    policies = fresh_policies(alternatives, fresh)
    active = torch.arange(count, device=device)
    best = torch.zeros(count, len(alternatives), dtype=torch.int64, device=device)
    lowest, spent = torch.full((count,), torch.inf, device=device), torch.full_like(active, budget.queries)
    means = torch.zeros(count, 3, device=device)
    history: list[float] = []
    for step, shown in enumerate(range(0, budget.queries, budget.samples)):
        proposals = min(budget.samples, budget.queries - shown)
        if len(active):
            sample = sampled(policies, alternatives, proposals, draws)
            losses, won = attempt(active, sample.choices)
            if not bool(torch.isfinite(losses).all()):
                raise AttackError(f"the loss is not finite at query {shown + proposals} of {budget.queries}")
            broken = won.any(dim=1)
            value, place = torch.where(won | ~broken.view(-1, 1), losses, torch.inf).min(dim=1)
            better = broken | (value < lowest[active])
            chosen = sample.choices[torch.arange(len(active), device=device), place]
            best[active[better]], lowest[active[better]] = chosen[better], value[better]
            spent[active[broken]] = shown + proposals
            policies = reinforced(policies, sample, -losses, budget.step_size)
            means = torch.cat((means[:, 1:], losses.mean(dim=1, keepdim=True)), dim=1)
            kept = ~broken
            active, means, policies = active[kept], means[kept], policies.chosen(kept)
            draws, fresh = draws.chosen(kept), fresh.chosen(kept)
            policies = _renewed(policies, means, alternatives, ImageDraws(fresh.seeds + step + 1))
        history.append(float(lowest.mean()))
        report(shown + proposals, history[-1], 1 - len(active) / count)
    return FoundBySearch(best, lowest, spent, torch.tensor(history))


def _renewed(policies: Policies, means: torch.Tensor, alternatives: tuple[int, ...], draws: ImageDraws) -> Policies:
    """The policies, those that have converged replaced by fresh ones."""
    bend = (means[:, 0] - 2 * means[:, 1] + means[:, 2]).abs()
    converged = (bend < CONVERGED) & (policies.steps[:, 0] >= 3)
    if not bool(converged.any()):
        return policies
    return policies.put(converged, fresh_policies(alternatives, draws.chosen(converged)))
