"""A loss whose backward pass is run at once, so that its activations need not wait for the other losses of a step."""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx


def backward_now(loss: torch.Tensor) -> torch.Tensor:
    """The same value with the same gradient, but without the graph that led to it.

    The gradient of everything below that a backward pass would reach is computed and kept; a later backward pass only
    hands it on, in the place where it belongs among the other losses. No second derivative.

    Args:
        loss: () with a graph, which is freed; the same object where it has none.
    """
    leaves = _leaves(loss)
    if not leaves:
        return loss
    gradients = torch.autograd.grad(loss, leaves)
    kept: torch.Tensor = _Kept.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss.detach(), gradients, *leaves
    )
    return kept


class _Kept(torch.autograd.Function):
    """Value, gradient of each leaf, leaves -> the value."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, value: torch.Tensor, gradients: tuple[torch.Tensor, ...], *leaves: torch.Tensor
    ) -> torch.Tensor:
        ctx.gradients = gradients  # type: ignore[attr-defined]  # neither inputs nor outputs, so nothing to save
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept = ctx.gradients  # type: ignore[attr-defined]  # as above
        return None, None, *(gradients[0] * gradient for gradient in kept)


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """The tensors in which a backward pass would accumulate a gradient, in order of discovery."""
    found: dict[int, torch.Tensor] = {}
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # only the node that accumulates has one
        if variable is not None:
            found[id(variable)] = variable
        waiting.extend(following for following, _ in node.next_functions)
    return list(found.values())
