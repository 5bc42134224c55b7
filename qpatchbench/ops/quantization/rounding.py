"""Rounding of a layer's weights so that its outputs change least.

A layer's mean squared output error is a quadratic of its rounding error, tr(D H D^T) with D = rounded - weight and H
the second moment of its inputs (Nagel et al. 2020, AdaRound, arXiv 2004.10568, equation 13). Nothing here sees images:
H says all that matters about them. All tensors have a leading dimension G of groups, 1 except for grouped convolutions.
"""

from __future__ import annotations

import torch

from qpatchbench.ops.quantization.fake_quantization import SMALLEST_SCALE, CodeRange

_FRACTIONS = tuple(0.2 + 0.025 * step for step in range(37))  # of the max-abs scale
_ZETA, _GAMMA = 1.1, -0.1  # stretch of AdaRound's sigmoid, equation 23
LARGEST_DAMPING = 20  # times that damping is raised a hundredfold


def output_error(difference: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """D H d^T of every row: differences (G, R, K), hessian (G, K, K) -> (G, R)."""
    return ((difference @ hessian) * difference).sum(-1)


def weighted_scale(weight: torch.Tensor, power: torch.Tensor, codes: CodeRange) -> torch.Tensor:
    """The scale of every row with the least squared error of rounding to nearest, weights counted by their inputs.

    Without the inputs, least squares clips a few large weights for the sake of many small ones, whatever they read.

    Args:
        weight: (G, R, K).
        power: how much each input varies, E[x^2] or its variance, (G, K).
        codes: smallest and largest code.

    Returns:
        (G, R, 1), one of 37 fractions from 0.2 to 1.1 of the max-abs scale.
    """
    largest = (weight.abs().amax(-1, keepdim=True) / codes.qmax).clamp_min(SMALLEST_SCALE)
    errors = []
    for fraction in _FRACTIONS:
        scale = largest * fraction
        difference = (weight / scale).round_().clamp_(*codes).mul_(scale).sub_(weight)
        errors.append(difference.square_() @ power[..., None])
    best = torch.stack(errors).argmin(0)
    return largest * torch.tensor(_FRACTIONS, dtype=weight.dtype, device=weight.device)[best]


def matched_weights(
    weight: torch.Tensor, hessian: torch.Tensor, cross: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float weights for the inputs that a layer really gets, once the layers before it are rounded.

    The V of least E|W x - V x'|^2 + lambda |V - W|^2, where x is the input in the float network and x' that in the
    rounded one: V = (W E[x x'^T] + lambda W) (E[x' x'^T] + lambda I)^-1.

    Args:
        weight: W, (G, R, K).
        hessian: E[x' x'^T], (G, K, K).
        cross: E[x x'^T], (G, K, K).
        damping: lambda as a share of the mean of the hessian's diagonal; positive. Where an input hardly varies, so
            that rounding errors leave the hessian indefinite, lambda is as much larger as that takes.

    Returns:
        V, and the damped hessian, of which the error of rounding V is a quadratic.
    """
    strength, damped = _damped(hessian, damping)
    wanted = weight @ cross + strength * weight
    factor = torch.linalg.cholesky(damped)
    return torch.cholesky_solve(wanted.mT, factor).mT, damped


def _damped(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Lambda (G, 1, 1) and the hessian (G, K, K) with it on its diagonal, positive definite if it is finite."""
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    strength = (hessian.diagonal(dim1=-2, dim2=-1).mean(-1) * damping).clamp_min(1e-12)[:, None, None]
    for _ in range(LARGEST_DAMPING):
        indefinite = torch.linalg.cholesky_ex(hessian + strength * identity).info > 0
        if not bool(indefinite.any()):
            break
        strength = torch.where(indefinite[:, None, None], 100 * strength, strength)
    return strength, hessian + strength * identity


def round_sequentially(
    weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, codes: CodeRange
) -> torch.Tensor:
    """Codes of the weights, column by column; what rounding a column costs is made up for by those not rounded yet.

    Frantar et al. 2023, GPTQ, arXiv 2210.17323, algorithm 1, with the columns of largest curvature first.

    Args:
        weight: (G, R, K).
        hessian: (G, K, K), positive definite.
        scale: (G, R, 1), positive.
        codes: smallest and largest code.
    """
    order = hessian.diagonal(dim1=-2, dim2=-1).sum(0).argsort(descending=True)
    left = weight[..., order].clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[:, order][..., order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    found = torch.empty_like(left)
    for column in range(left.shape[-1]):
        now = left[..., column : column + 1]
        found[..., column : column + 1] = (now / scale).round().clamp(*codes)
        error = (now - found[..., column : column + 1] * scale) / upper[:, column, column, None, None]
        left[..., column + 1 :] -= error * upper[:, column : column + 1, column + 1 :]
    rounded = torch.empty_like(found)
    rounded[..., order] = found
    return rounded


def refine_codes(
    chosen: torch.Tensor,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    scale: torch.Tensor,
    codes: CodeRange,
    sweeps: int,
) -> torch.Tensor:
    """Codes after exact minimisation over one column at a time; the output error never grows.

    Args:
        chosen: codes to start from, (G, R, K).
        weight: (G, R, K).
        hessian: (G, K, K), positive definite.
        scale: (G, R, 1), positive.
        codes: smallest and largest code.
        sweeps: passes over all columns; ends early when no code moves.
    """
    chosen, curvature = chosen.clone(), hessian.diagonal(dim1=-2, dim2=-1)
    slope = (chosen * scale - weight) @ hessian
    for _ in range(sweeps):
        moved = False
        for column in range(weight.shape[-1]):
            current = chosen[..., column : column + 1]
            step = slope[..., column : column + 1] / (curvature[:, column, None, None] * scale)
            better = (current - step).round().clamp(*codes)
            change = better - current
            if bool(change.any()):
                moved = True
                chosen[..., column : column + 1] = better
                slope += change * scale * hessian[:, column : column + 1]
        if not moved:
            break
    return chosen


def learn_rounding(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    scale: torch.Tensor,
    codes: CodeRange,
    steps: int,
    regularization: float = 0.01,
) -> torch.Tensor:
    """Codes of the weights, each rounded up or down as learned: AdaRound, equations 21 to 24.

    The published loss is estimated from batches; here it is the exact quadratic over all of the layer's inputs, divided
    by the error of rounding to nearest, so that one strength of the regulariser serves every layer. Adam, rate 0.01;
    the exponent beta falls from 20 to 2, and the regulariser sets in after a fifth of the steps.

    Args:
        weight: (G, R, K).
        hessian: (G, K, K), positive definite.
        scale: (G, R, 1), positive.
        codes: smallest and largest code.
        steps: of Adam.
        regularization: strength of the term that drives every weight up or down.
    """
    floor = (weight / scale).floor()
    rest = (weight / scale - floor).clamp(1e-4, 1 - 1e-4)
    hidden = torch.logit((rest - _GAMMA) / (_ZETA - _GAMMA)).requires_grad_()
    nearest = (weight / scale).round().clamp(*codes) * scale - weight
    unit = output_error(nearest, hessian).sum().clamp_min(1e-20)
    optimizer = torch.optim.Adam([hidden], lr=0.01)
    warmup = steps // 5
    with torch.enable_grad():
        for step in range(steps):
            up = (torch.sigmoid(hidden) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)
            loss = output_error((floor + up).clamp(*codes) * scale - weight, hessian).sum() / unit
            if step >= warmup:
                beta = 20 - 18 * (step - warmup) / (steps - warmup)
                loss = loss + regularization * (1 - (2 * up - 1).abs().pow(beta)).mean() * rest.numel() ** 0.5
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    return (floor + (hidden.detach() >= 0)).clamp(*codes)
