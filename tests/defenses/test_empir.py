"""EMPIR: the vote by hand, its stand-in's gradient, and the three networks that a suite deploys for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qpatchbench.defenses.empir import Empir
from qpatchbench.defenses.voting import AveragingNetwork, VotingNetwork
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.types import FLOAT, Bits
from tests.suite.conftest import MakePlan, make_suite, plan_of

__all__ = ["make_suite", "plan_of"]

CLASSES = 4


class Always(nn.Module):
    """Answers fixed logits, tilted a little by the image."""

    logits: torch.Tensor

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, 4)."""
        return self.logits + 0.01 * images.flatten(1)[:, :CLASSES]


def says(class_id: int, confidence: float = 1.0) -> Always:
    return Always(*(confidence if index == class_id else 0.0 for index in range(CLASSES)))


IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("votes", "expected"),
    [((0, 0, 0), 0), ((0, 0, 1), 0), ((0, 1, 0), 0), ((1, 0, 0), 0), ((2, 2, 3), 2), ((0, 1, 2), 2), ((3, 1, 0), 0)],
)
@pytest.mark.parametrize("confidence", [0.1, 5.0, 50.0])
def test_majority_wins_and_the_float_network_breaks_ties(
    votes: tuple[int, ...], expected: int, confidence: float
) -> None:
    """However confident the losing members are."""
    members = [says(vote, confidence if vote != expected else 0.2) for vote in votes]
    logits = VotingNetwork(members)(IMAGES)
    assert logits.shape == (5, CLASSES)
    assert (logits.argmax(dim=1) == expected).all()


def test_three_equal_members_are_one_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES))
    images = torch.rand(200, 3, 4, 4)
    for combined in (VotingNetwork([network] * 3), AveragingNetwork([network] * 3)):
        assert torch.equal(combined(images).argmax(dim=1), network(images).argmax(dim=1))
    averaged = AveragingNetwork([network] * 3)(images)
    torch.testing.assert_close(averaged, network(images).log_softmax(dim=1))


def test_the_average_is_the_mean_probability() -> None:
    members = [Always(1.0, 2.0, 0.0, -1.0), Always(0.5, -1.0, 3.0, 0.0)]
    mean = torch.stack([member(IMAGES).softmax(dim=1) for member in members]).mean(dim=0)
    torch.testing.assert_close(AveragingNetwork(members)(IMAGES).exp(), mean)


def test_attacks_follow_the_stand_in_because_a_vote_has_no_slope() -> None:
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES)) for _ in range(3)]
    images = IMAGES.clone().requires_grad_()
    stand_in = VotingNetwork(members).expected(images)
    (gradient,) = torch.autograd.grad(stand_in[:, 0].sum(), images)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_members_of_a_suite(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=["empir", "qat"], finetuning={"epochs": 1})
    networks = [job for job in plan.jobs if isinstance(job, DeployJob) and job.checkpoint.defense.name == "empir"]
    low = next(job for job in networks if job.bits == Bits.parse(4))
    second, undefended = low.partners
    assert (second.bits, undefended.bits) == (Bits.parse(4), FLOAT)
    assert second.checkpoint.key != low.checkpoint.key, "another seed"
    assert second.checkpoint.initial == low.checkpoint.initial == undefended.checkpoint
    assert undefended.checkpoint.defense.name == "none"
    place = {job.key: index for index, job in enumerate(plan.jobs)}
    assert all(place[job.key] < place[low.key] for job in low.upstream)
    assert len(low.upstream) == 3
    alone = next(job for job in plan.jobs if isinstance(job, DeployJob) and job.checkpoint.defense.name == "qat")
    assert alone.partners == ()


def test_the_combination_decides_the_network(plan_of: MakePlan) -> None:
    def keys(combination: str) -> set[str]:
        plan = plan_of(defenses=[{"name": "empir", "combination": combination}])
        return {job.network_key for job in plan.jobs if isinstance(job, DeployJob)}

    assert not keys("vote") & keys("average")


def test_each_width_is_a_network_of_its_own() -> None:
    bits = (FLOAT, Bits.parse(4))
    assert Empir(name="empir").bit_groups(bits) == ((FLOAT,), (Bits.parse(4),))
