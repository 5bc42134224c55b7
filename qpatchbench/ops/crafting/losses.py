"""Attack objectives on logits (B, K), one value per image, all to be minimised by the attacker."""

from __future__ import annotations

import torch

from qpatchbench.errors import AttackError
from qpatchbench.types import Goal, Targeted


def goal_classes(goals: tuple[Goal, ...]) -> torch.Tensor:
    """Class id per goal (G,) int64; -1 stands for untargeted."""
    return torch.tensor([goal.class_id if isinstance(goal, Targeted) else -1 for goal in goals])


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log P(target), or log P(label) where the target is -1.

    Brown et al. 2017 (arXiv 1712.09665), section 2, for a target; its negation with the label is the usual
    untargeted form.
    """
    untargeted = targets < 0
    loss = torch.nn.functional.cross_entropy(logits, torch.where(untargeted, labels, targets), reduction="none")
    return torch.where(untargeted, -loss, loss)


def logit_difference(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """z_label - z_target, or the margin z_label - max_(k != label) z_k where the target is -1.

    Karmon et al. 2018 (LaVAN, arXiv 1801.02608), section 3: raise the target's logit and lower the source's.
    It equals CE(target) - CE(label), whose log-sum-exp cancels. With a target it may be as low as one likes while a
    third class wins; `margin` may not.
    """
    source = logits.gather(1, labels.view(-1, 1)).squeeze(1)
    others = logits.scatter(1, labels.view(-1, 1), -torch.inf).amax(dim=1)
    aimed = logits.gather(1, targets.clamp(min=0).view(-1, 1)).squeeze(1)
    return source - torch.where(targets < 0, others, aimed)


def margin(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """max_(k != target) z_k - z_target, or z_label - max_(k != label) z_k where the target is -1.

    Carlini and Wagner 2017 (arXiv 1608.04644), f_6 of section V-A without its bound: below 0 exactly where the attack
    succeeds, but for ties, whatever the number of classes.
    """
    untargeted = targets < 0
    aim = torch.where(untargeted, labels, targets).view(-1, 1)
    own = logits.gather(1, aim).squeeze(1)
    others = logits.scatter(1, aim, -torch.inf).amax(dim=1)
    return torch.where(untargeted, own - others, others - own)


def dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Difference of logits ratio: the logit difference, divided so that scaling all logits changes nothing.

    Croce and Hein 2020 (arXiv 2003.01690), DLR and targeted DLR, negated, with z_1 >= z_2 >= .. the sorted logits:
    (z_label - max_(k != label) z_k) / (z_1 - z_3) where the target is -1, else
    (z_label - z_target) / (z_1 - (z_3 + z_4) / 2). The authors' code adds 1e-12 to the divisor, as here.

    Raises:
        AttackError: fewer than 3 classes, or fewer than 4 and a target.
    """
    targeted = bool((targets >= 0).any())
    classes, needed = logits.shape[1], classes_for_dlr(targeted=targeted)
    if classes < needed:
        raise AttackError(
            f"expected at least {needed} classes for the {'targeted' if targeted else 'untargeted'} loss dlr, "
            f"found {classes}; the loss margin works with any number"
        )
    largest = logits.topk(min(4, classes), dim=1).values
    untargeted_spread = largest[:, 0] - largest[:, 2]
    targeted_spread = largest[:, 0] - (largest[:, 2] + largest[:, -1]) / 2
    spread = torch.where(targets < 0, untargeted_spread, targeted_spread)
    return logit_difference(logits, labels, targets) / (spread + 1e-12)


def classes_for_dlr(*, targeted: bool) -> int:
    """How many classes `dlr` needs at least."""
    return 4 if targeted else 3


def succeeded(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the prediction is the target, or not the label where the target is -1; (B,) bool."""
    prediction = logits.argmax(dim=1)
    return torch.where(targets < 0, prediction != labels, prediction == targets)
