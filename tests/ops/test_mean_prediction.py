"""The mean prediction of several networks."""

from __future__ import annotations

import torch

from qpatchbench.ops.mean_prediction import log_mean_probability


def test_it_is_the_mean_probability() -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_mean_probability(logits).exp(), logits.softmax(dim=2).mean(dim=0))


def test_one_member_and_equal_members_are_a_softmax() -> None:
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(1))
    for members in (logits, logits.expand(4, -1, -1)):
        torch.testing.assert_close(log_mean_probability(members), logits[0].log_softmax(dim=1))


def test_confident_members_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    expected = torch.log(torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(log_mean_probability(logits), expected)


def test_its_gradient_is_the_mean_of_the_members_by_responsibility() -> None:
    """d log mean p_y = sum over members of p_y / sum p_y times d log p_y."""
    logits = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    (found,) = torch.autograd.grad(log_mean_probability(logits)[0, 1], logits)
    probabilities = logits.detach().softmax(dim=2)
    share = probabilities[:, 0, 1] / probabilities[:, 0, 1].sum()
    one_hot = torch.tensor([0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(found[:, 0], share.unsqueeze(1) * (one_hot - probabilities[:, 0]))
