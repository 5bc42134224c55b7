"""Mean prediction of several networks: log of the mean of their softmax."""

from __future__ import annotations

import math

import torch


def log_mean_probability(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean of the members' probabilities; (M, B, K) -> (B, K) float32.

    Its cross-entropy is that of the mean prediction, so that following its gradient is an expectation over
    transformations (Athalye et al. 2018, arXiv 1707.07397) with every member instead of a sample of them.
    """
    return logits.float().log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
