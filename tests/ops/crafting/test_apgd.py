"""Auto-PGD against an independent implementation, hand calculation and known optima."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchattacks
from torch.nn import functional

from qpatchbench.errors import AttackError
from qpatchbench.ops.crafting.apgd import auto_pgd, checkpoints
from qpatchbench.ops.crafting.judgement import Judgement

CLASSES = 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def never(losses: torch.Tensor) -> Judgement:
    """Losses of candidates of which none succeeds."""
    return Judgement(losses, torch.zeros(len(losses), dtype=torch.bool))


def bent_network(seed: int) -> torch.nn.Module:
    """Images (B, 3, 5, 5) -> logits, with hidden units that saturate, so that vertices of the box are not optimal."""
    layers = [torch.nn.Flatten(), torch.nn.Linear(75, 12), torch.nn.Tanh(), torch.nn.Linear(12, CLASSES)]
    module = torch.nn.Sequential(*layers).eval().requires_grad_(False)
    generator = draws(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return module


class Recorder(torch.nn.Module):
    """A network that remembers what it was shown."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Remember, then answer."""
        self.seen.append(images.detach().clone())
        logits: torch.Tensor = self.network(images)
        return logits


def test_checkpoints_are_those_of_the_paper() -> None:
    """p = 0, 0.22, then each distance 0.03 shorter but at least 0.06; w = ceil(p * steps)."""
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(1000) == (220, 410, 570, 700, 800, 870, 930, 990)
    assert checkpoints(50) == (11, 21, 29, 35, 40, 44, 47, 50)
    assert checkpoints(10) == (3, 5, 6, 7, 8, 9, 10)
    assert checkpoints(1) == (1,)


@pytest.mark.numerical
@pytest.mark.parametrize("seed", range(4))
def test_every_point_visited_is_that_of_torchattacks(seed: int) -> None:
    """On a whole image whose ball is the box [0, 1]: 101 points for each of 8 images, bit for bit."""
    theirs, ours = Recorder(bent_network(seed)), Recorder(bent_network(seed))
    images, labels = torch.full((8, 3, 5, 5), 0.5), torch.arange(8) % CLASSES
    attack = torchattacks.APGD(theirs, eps=0.5, steps=100, loss="ce")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        best, _, best_losses, _ = attack.attack_single_run(images, labels)
    start = theirs.seen[0]

    def judge(points: torch.Tensor) -> Judgement:
        return never(-functional.cross_entropy(ours(points), labels, reduction="none"))

    zeros = torch.zeros_like(start)
    run = auto_pgd(judge, start, zeros, zeros + 1, steps=100)
    # Their first condition compares the loss after the first step with 0, ours with that of the start.
    first, second = (functional.cross_entropy(theirs.network(x), labels, reduction="none") for x in theirs.seen[:2])
    same = second > first
    assert int(same.sum()) >= 5, "too few images on which both comparisons agree"
    assert len(theirs.seen) == len(ours.seen) == 101
    for step, (their_points, our_points) in enumerate(zip(theirs.seen, ours.seen, strict=True)):
        assert torch.equal(their_points[same], our_points[same]), f"the points differ after step {step}"
    assert torch.equal(run.best[same], best[same])
    assert torch.allclose(run.judgement.losses[same], -best_losses[same])
    moves = [(after - before).abs().amax() for before, after in itertools.pairwise(ours.seen)]
    assert float(moves[0]) > 0.4, "no long step at first: the test is void"
    assert float(moves[-1]) < 0.2, "no step was halved: the test is void"


def test_steps_are_halved_and_go_back_by_hand() -> None:
    """A loss that never improves, with a slope of 1: at each checkpoint the step halves, from the start again."""
    visited: list[float] = []

    def judge(points: torch.Tensor) -> Judgement:
        visited.append(float(points.detach()))
        return never((points - points.detach()).sum(dim=1))

    wide = torch.full((1, 1), 100.0)
    auto_pgd(judge, torch.zeros(1, 1), -wide, wide, steps=10)
    # Three steps of 1, then from 0 again with 1/2 and the momentum of the jump back from -2, then with 1/4 from 1/8.
    first, second = -0.75 * 0.5 + 0.25 * 2, 0.125 - 0.75 * 0.5 + 0.25 * 0.125
    third = -0.75 * 0.25 + 0.25 * (0 - 0.125)
    assert visited[:7] == pytest.approx([0, -1, -2, -3, first, second, third], abs=1e-7)


def test_steps_that_improve_are_never_halved() -> None:
    visited: list[float] = []

    def judge(points: torch.Tensor) -> Judgement:
        visited.append(float(points.detach()))
        return never(points.sum(dim=1))

    wide = torch.full((1, 1), 1000.0)
    run = auto_pgd(judge, torch.zeros(1, 1), -wide, wide, steps=100)
    assert visited == pytest.approx([-float(step) for step in range(101)], abs=1e-3)
    assert run.history.flatten().tolist() == pytest.approx(visited[1:])
    assert float(run.best) == visited[-1]


@pytest.mark.numerical
@pytest.mark.parametrize("share", [0.7, 0.8])
def test_a_step_is_halved_below_three_quarters_of_improvements(share: float) -> None:
    """The first window of 220 steps improves in the given share of them, on a schedule of losses made by hand."""
    visited: list[float] = []
    value = 0.0

    def judge(points: torch.Tensor) -> Judgement:
        nonlocal value
        calls = len(visited)
        value += -2.0 if int(calls * share) > int((calls - 1) * share) else 1.0
        visited.append(float(points.detach()))
        return never((points - points.detach()).sum(dim=1) + value)

    wide = torch.full((1, 1), 10_000.0)
    auto_pgd(judge, torch.zeros(1, 1), -wide, wide, steps=1000)
    # With nothing halved every step is 1; a halved one also goes back to the best point, a jump of another length.
    lengths = {round(before - after, 3) for before, after in itertools.pairwise(visited[:300])}
    assert (lengths == {1.0}) == (share > 0.75)


@pytest.mark.numerical
def test_the_optimum_of_a_linear_loss_is_reached_exactly() -> None:
    slope = torch.randn(6, 3, 4, 4, generator=draws(1))
    start, zeros = torch.rand(6, 3, 4, 4, generator=draws(2)), torch.zeros(6, 3, 4, 4)
    run = auto_pgd(lambda points: never((slope * points).flatten(1).sum(dim=1)), start, zeros, zeros + 1, steps=20)
    assert torch.equal(run.best, (slope < 0).float())
    up = auto_pgd(lambda points: never(-(slope * points).flatten(1).sum(dim=1)), start, zeros, zeros + 1, steps=20)
    assert torch.equal(up.best, (slope > 0).float()), "a negated loss is maximised"


@pytest.mark.numerical
def test_a_valley_inside_the_box_is_found() -> None:
    """Steps as long as the box jump over it for ever; halving must close in."""
    valley = torch.rand(20, 10, generator=draws(3))
    zeros = torch.zeros(20, 10)
    start = torch.rand(20, 10, generator=draws(4))
    run = auto_pgd(lambda points: never((points - valley).square().sum(dim=1)), start, zeros, zeros + 1, steps=100)
    assert (run.best - valley).abs().max() < 0.02


def test_the_box_is_never_left() -> None:
    lower, upper = torch.rand(5, 8, generator=draws(5)) / 2, 0.5 + torch.rand(5, 8, generator=draws(6)) / 2
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).requires_grad_(False)
    visited: list[torch.Tensor] = []

    def judge(points: torch.Tensor) -> Judgement:
        visited.append(points.detach())
        return never(network(points).squeeze(1))

    run = auto_pgd(judge, (lower + upper) / 2, lower, upper, steps=40, first_step=3.0)
    assert len(visited) == 41
    assert all(bool(((points >= lower) & (points <= upper)).all()) for points in visited)
    assert bool(((run.best == lower) | (run.best == upper)).any()), "the box never mattered: the test is void"


def test_the_best_point_is_kept_success_first_loss_second() -> None:
    visited: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    network = bent_network(7)

    def judge(points: torch.Tensor) -> Judgement:
        logits = network(points)
        losses, success = logits[:, 0], logits[:, 1] > 0.5  # nothing to do with each other
        visited.append((points.detach(), losses.detach(), success))
        return Judgement(losses, success)

    start, zeros = torch.rand(16, 3, 5, 5, generator=draws(8)), torch.zeros(16, 3, 5, 5)
    run = auto_pgd(judge, start, zeros, zeros + 1, steps=30)
    not_lowest = 0
    for index in range(16):
        told = [(not bool(won[index]), float(loss[index]), step) for step, (_, loss, won) in enumerate(visited)]
        failed, lowest, step = min(told)
        assert bool(run.judgement.success[index]) == (not failed)
        assert float(run.judgement.losses[index]) == lowest
        assert torch.equal(run.best[index], visited[step][0][index])
        not_lowest += lowest > min(loss for _, loss, _ in told)
    assert not_lowest > 0, "success never mattered: the test is void"


def test_images_do_not_disturb_each_other() -> None:
    network = bent_network(9).double()

    def judge(points: torch.Tensor) -> Judgement:
        return never(
            functional.cross_entropy(network(points), torch.zeros(len(points), dtype=torch.int64), reduction="none")
        )

    start = torch.rand(6, 3, 5, 5, generator=draws(10)).double()
    zeros = torch.zeros_like(start[:1])
    together = auto_pgd(judge, start, zeros, zeros + 1, steps=60)
    for index in range(6):
        alone = auto_pgd(judge, start[index : index + 1], zeros, zeros + 1, steps=60)
        assert torch.allclose(alone.best[0], together.best[index], atol=1e-9)
        assert torch.allclose(alone.history[:, 0], together.history[:, index], atol=1e-9)


def test_the_start_is_left_alone_and_progress_is_told() -> None:
    told: list[int] = []

    def report(step: int, losses: torch.Tensor, best: Judgement) -> None:
        assert (best.losses <= losses).all()
        told.append(step)

    start = torch.rand(3, 4, generator=draws(11))
    before = start.clone()
    run = auto_pgd(lambda x: never(x.sum(dim=1)), start, start * 0, start * 0 + 1, steps=7, report=report)
    assert torch.equal(start, before)
    assert not start.requires_grad
    assert not run.best.requires_grad
    assert told == list(range(1, 8))


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    calls = 0

    def judge(points: torch.Tensor) -> Judgement:
        nonlocal calls
        calls += 1
        return never(points.sum(dim=1) * (float("nan") if calls == 4 else 1.0))

    zeros = torch.zeros(2, 3)
    with pytest.raises(AttackError, match="not finite at step 3 of 9"):
        auto_pgd(judge, zeros, zeros, zeros + 1, steps=9)
