"""Attack objectives against identities and a numpy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.losses import cross_entropy, dlr, goal_classes, logit_difference, margin, succeeded
from qpatchbench.types import Targeted, Untargeted

UNTARGETED = -1


def batch(seed: int, scale: float = 3.0, count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, 7, generator=generator)
    labels = torch.randint(0, 7, (count,), generator=generator)
    targets = torch.randint(0, 7, (count,), generator=generator)
    return logits, labels, targets


def test_goals_become_class_ids() -> None:
    assert goal_classes((Targeted(3), Untargeted(), Targeted(0))).tolist() == [3, UNTARGETED, 0]


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_logit_difference_is_a_difference_of_cross_entropies(scale: float) -> None:
    logits, labels, targets = batch(0, scale)
    logits = logits.double().requires_grad_()
    towards = functional.cross_entropy(logits, targets, reduction="none")
    away = functional.cross_entropy(logits, labels, reduction="none")
    difference = logit_difference(logits, labels, targets)
    assert torch.allclose(difference, towards - away, atol=1e-9)
    ours = torch.autograd.grad(difference.sum(), logits, retain_graph=True)[0]
    theirs = torch.autograd.grad((towards - away).sum(), logits)[0]
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_untargeted_margin_equals_numpy() -> None:
    logits, labels, _ = batch(1)
    expected = []
    for row, label in zip(logits.numpy(), labels.numpy(), strict=True):
        others = np.delete(row, label)
        expected.append(row[label] - others.max())
    untargeted = torch.full_like(labels, UNTARGETED)
    for objective in (logit_difference, margin):
        assert np.array_equal(objective(logits, labels, untargeted).numpy(), np.asarray(expected))


def test_untargeted_margin_is_negative_exactly_on_success() -> None:
    logits, labels, _ = batch(2)
    untargeted = torch.full_like(labels, UNTARGETED)
    assert torch.equal(logit_difference(logits, labels, untargeted) < 0, succeeded(logits, labels, untargeted))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_margin_is_negative_exactly_on_success(classes: int) -> None:
    """Targeted and untargeted, for images of the target class too, where LaVAN's difference would be 0."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(500, classes, generator=generator)
    labels, targets = torch.randint(classes, (2, 500), generator=generator)
    for aim in (targets, torch.full_like(labels, UNTARGETED)):
        assert torch.equal(margin(logits, labels, aim) < 0, succeeded(logits, labels, aim))


def test_a_third_class_satisfies_lavan_and_not_the_margin() -> None:
    logits, label, target = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([0]), torch.tensor([1])
    assert logit_difference(logits, label, target).tolist() == [-1.0]
    assert margin(logits, label, target).tolist() == [4.0]
    assert not succeeded(logits, label, target).any()


def test_success_is_the_target_or_anything_but_the_label() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]]).repeat(4, 1)
    labels, targets = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 1, UNTARGETED, UNTARGETED])
    assert succeeded(logits, labels, targets).tolist() == [True, True, True, False]


def test_objectives_may_be_mixed_in_one_batch() -> None:
    logits, labels, targets = batch(3)
    mixed = torch.where(torch.arange(len(labels)) % 2 == 0, UNTARGETED, targets)
    for objective in (cross_entropy, logit_difference, margin):
        together = objective(logits, labels, mixed)
        alone = torch.stack(
            [objective(logits[i : i + 1], labels[i : i + 1], mixed[i : i + 1])[0] for i in range(len(labels))]
        )
        assert torch.allclose(together, alone, atol=1e-6)


def test_cross_entropy_points_towards_the_target_and_away_from_the_label() -> None:
    logits, labels, targets = batch(4)
    logits.requires_grad_()
    for aim, better in ((targets, targets), (torch.full_like(labels, UNTARGETED), None)):
        gradient = torch.autograd.grad(cross_entropy(logits, labels, aim).sum(), logits)[0]
        if better is not None:
            assert (gradient.gather(1, better.view(-1, 1)) < 0).all(), "descending must raise the target's logit"
        else:
            assert (gradient.gather(1, labels.view(-1, 1)) > 0).all(), "descending must lower the label's logit"


def test_logit_difference_does_not_saturate() -> None:
    """At a confidence where float32 probabilities are exactly 0 and 1, the gradient still has unit size."""
    logits = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    label, target = torch.tensor([0]), torch.tensor([2])
    for aim, expected in ((target, [1.0, 0.0, -1.0]), (torch.tensor([UNTARGETED]), [1.0, -1.0, 0.0])):
        gradient = torch.autograd.grad(logit_difference(logits, label, aim).sum(), logits)[0]
        assert gradient[0].tolist() == expected
    saturated = torch.autograd.grad(logits.softmax(dim=1)[:, 2].sum(), logits)[0]
    assert saturated.abs().max() == 0, "the contrast that this test is about"


def test_an_image_of_the_target_class_pulls_nowhere() -> None:
    logits, labels, _ = batch(5)
    logits.requires_grad_()
    difference = logit_difference(logits, labels, labels)
    assert difference.abs().max() == 0
    assert torch.autograd.grad(difference.sum(), logits)[0].abs().max() == 0


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_equals_its_formula_in_numpy(targeted: bool) -> None:
    """Croce and Hein's DLR and targeted DLR, negated, by sorting."""
    logits, labels, targets = batch(6)
    targets = targets if targeted else torch.full_like(labels, UNTARGETED)
    expected = []
    for row, label, target in zip(logits.double().numpy(), labels.tolist(), targets.tolist(), strict=True):
        ranked = np.sort(row)[::-1]
        if targeted:
            expected.append((row[label] - row[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2))
        else:
            expected.append((row[label] - np.delete(row, label).max()) / (ranked[0] - ranked[2]))
    assert np.allclose(dlr(logits, labels, targets).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_dlr_depends_on_neither_scale_nor_offset() -> None:
    logits, labels, targets = batch(7)
    logits, mixed = logits.double(), torch.where(torch.arange(len(labels)) % 2 == 0, UNTARGETED, targets)
    loss = dlr(logits, labels, mixed)
    assert torch.allclose(dlr(1e3 * logits, labels, mixed), loss, rtol=1e-9)
    assert torch.allclose(dlr(1e-3 * logits, labels, mixed), loss, rtol=1e-6)
    assert torch.allclose(dlr(logits + 50, labels, mixed), loss, rtol=1e-9)
    assert not torch.allclose(logit_difference(1e3 * logits, labels, mixed), logit_difference(logits, labels, mixed))
    alone = [dlr(logits[i : i + 1], labels[i : i + 1], mixed[i : i + 1]) for i in range(len(labels))]
    assert torch.allclose(torch.cat(alone), loss), "untargeted and targeted images may share a batch"


def test_dlr_is_negative_exactly_on_success_and_at_most_one() -> None:
    logits, labels, _ = batch(8)
    untargeted = torch.full_like(labels, UNTARGETED)
    loss = dlr(logits, labels, untargeted)
    assert torch.equal(loss < 0, succeeded(logits, labels, untargeted))
    right = loss > 0
    assert loss[right].max() <= 1


def test_dlr_of_tied_logits_is_finite() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    loss = dlr(logits, torch.tensor([0, 1]), torch.tensor([UNTARGETED, 3]))
    assert loss.tolist() == [0, 0]
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


@pytest.mark.parametrize(("classes", "target", "needed"), [(2, UNTARGETED, 3), (3, 1, 4), (2, 1, 4)])
def test_dlr_of_too_few_classes_is_an_error(classes: int, target: int, needed: int) -> None:
    with pytest.raises(AttackError, match=f"at least {needed} classes for the (un)?targeted loss dlr, found {classes}"):
        dlr(torch.zeros(1, classes), torch.tensor([0]), torch.tensor([target]))


def test_dlr_of_three_classes_works_untargeted() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    loss = dlr(logits, torch.tensor([0, 1]), torch.tensor([UNTARGETED, UNTARGETED]))
    assert loss.tolist() == pytest.approx([0.5, -1.0])
