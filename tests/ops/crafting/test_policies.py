"""Policies: the same as torch's own LSTM and Adam, a bandit's best arm, and images that do not know of each other."""

from __future__ import annotations

import pytest
import torch

from qpatchbench.ops.crafting.policies import HIDDEN, Policies, _unpacked, fresh_policies, reinforced, sampled
from qpatchbench.ops.randomness import ImageDraws

CHOICES = (4, 3, 5)


def draws(count: int, seed: int = 0) -> ImageDraws:
    return ImageDraws.of(count, torch.Generator().manual_seed(seed), torch.device("cpu"))


class Reference(torch.nn.Module):
    """The policy of one image in torch's own layers."""

    def __init__(self, policies: Policies, index: int, choices: tuple[int, ...]) -> None:
        super().__init__()
        (inputs, hidden, first, second), heads, embeddings = _unpacked(policies.weights[index : index + 1], choices)
        self.first = policies.first[index]
        self.cell = torch.nn.LSTMCell(HIDDEN, HIDDEN)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, count) for count in choices)
        self.embeddings = torch.nn.ModuleList(torch.nn.Embedding(count, HIDDEN) for count in choices[:-1])
        pairs = [
            (self.cell.weight_ih, inputs[0].T),
            (self.cell.weight_hh, hidden[0].T),
            (self.cell.bias_ih, first[0, 0]),
            (self.cell.bias_hh, second[0, 0]),
            *((layer.weight, values[0]) for layer, values in zip(self.embeddings, embeddings, strict=True)),
        ]
        for layer, weight, bias in zip(self.heads, heads[::2], heads[1::2], strict=True):
            pairs += [(layer.weight, weight[0].T), (layer.bias, bias[0, 0])]
        with torch.no_grad():
            for own, given in pairs:
                assert isinstance(own, torch.Tensor)
                own.copy_(given)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """Choices (S, K) -> log P (S,)."""
        inputs = self.first.expand(len(sequences), -1)
        state = (torch.zeros_like(inputs), torch.zeros_like(inputs))
        total = torch.zeros(len(sequences))
        for place, choice in enumerate(sequences.T):
            state = self.cell(inputs, state)
            logs = self.heads[place](state[0]).log_softmax(dim=1)
            total = total + logs.gather(1, choice.view(-1, 1)).squeeze(1)
            if place < len(self.embeddings):
                inputs = self.embeddings[place](choice)
        return total


def test_probabilities_are_those_of_torchs_lstm() -> None:
    own = draws(3)
    policies = fresh_policies(CHOICES, own)
    sample = sampled(policies, CHOICES, 40, own)
    for index in range(3):
        expected = Reference(policies, index, CHOICES)(sample.choices[index])
        assert torch.allclose(sample.log_probabilities[index], expected, atol=1e-5)


def test_training_is_that_of_torchs_adam() -> None:
    """Five steps of REINFORCE in torch's own layers, with the same sequences and rewards."""
    own = draws(2)
    policies = fresh_policies(CHOICES, own)
    references = [Reference(policies, index, CHOICES) for index in range(2)]
    optimizers = [torch.optim.Adam(reference.parameters(), lr=0.03) for reference in references]
    for _ in range(5):
        sample = sampled(policies, CHOICES, 16, own)
        rewards = sample.choices.float() @ torch.tensor([1.0, -2.0, 0.5])
        policies = reinforced(policies, sample, rewards, 0.03)
        for reference, optimizer, sequences, values in zip(
            references, optimizers, sample.choices, rewards, strict=True
        ):
            advantage = (values - values.mean()) / (values.std(correction=0) + torch.finfo(torch.float32).eps)
            loss = -(reference(sequences) * advantage).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    probe = torch.cartesian_prod(*(torch.arange(count) for count in CHOICES))
    for index, reference in enumerate(references):
        found = Reference(policies, index, CHOICES)(probe)
        assert torch.allclose(found, reference(probe), atol=2e-3)


def test_sequences_come_as_often_as_their_probabilities_say() -> None:
    own = draws(1)
    policies = fresh_policies((3, 2), own)
    for _ in range(4):  # away from the uniform start
        sample = sampled(policies, (3, 2), 32, own)
        policies = reinforced(policies, sample, sample.choices[:, :, 0].float(), 0.03)
    sample = sampled(policies, (3, 2), 20_000, own)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    expected = Reference(policies, 0, (3, 2))(every).exp().detach()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    observed = (sample.choices[0] @ torch.tensor([2, 1])).bincount(minlength=6) / 20_000
    assert (observed - expected).abs().max() < 0.015  # four standard deviations at most
    assert expected.max() > 1.5 * expected.min(), "a uniform policy would pass without looking at the weights"


@pytest.mark.numerical
def test_a_bandits_best_arm_is_found_by_every_policy() -> None:
    """Each image has another best arm; noise on the rewards, of any scale, does not hide it."""
    own = draws(12)
    arms, best = 8, torch.arange(12) % 8
    scales = torch.logspace(-3, 3, 12).view(-1, 1)
    policies = fresh_policies((arms,), own)
    for _ in range(60):
        sample = sampled(policies, (arms,), 32, own)
        pulled = sample.choices[:, :, 0]
        rewards = scales * ((pulled == best.view(-1, 1)).float() + 0.5 * own.uniform(32))
        policies = reinforced(policies, sample, rewards, 0.03)
    last = sampled(policies, (arms,), 200, own).choices[:, :, 0]
    assert ((last == best.view(-1, 1)).float().mean(dim=1) > 0.95).all()


@pytest.mark.numerical
def test_a_choice_may_depend_on_the_one_before() -> None:
    """The reward is for agreement only: no choice is good by itself, so a policy without memory earns one half."""
    own = draws(8)
    policies = fresh_policies((2, 2), own)
    for _ in range(80):
        sample = sampled(policies, (2, 2), 64, own)
        agreed = (sample.choices[:, :, 0] == sample.choices[:, :, 1]).float()
        # A balanced first choice is rewarded too, or the policy would settle on one pair.
        share = sample.choices[:, :, 0].float().mean(dim=1, keepdim=True)
        balance = torch.where(sample.choices[:, :, 0] == 1, 1 - share, share)
        policies = reinforced(policies, sample, agreed + balance, 0.03)
    last = sampled(policies, (2, 2), 400, own).choices
    first, second = last.unbind(dim=2)
    assert (first == second).float().mean() > 0.95
    both = (first.float().mean(dim=1) - 0.5).abs() < 0.35
    assert both.float().mean() >= 0.5, "policies that always make one choice need no memory: the test is void"


def test_equal_rewards_teach_nothing() -> None:
    own = draws(3)
    policies = fresh_policies(CHOICES, own)
    after = reinforced(policies, sampled(policies, CHOICES, 10, own), torch.full((3, 10), -7.0), 0.03)
    assert torch.equal(after.weights, policies.weights)
    assert after.steps.eq(1).all()


def test_the_scale_and_the_level_of_rewards_change_nothing() -> None:
    own = draws(2)
    policies = fresh_policies(CHOICES, own)
    start = ImageDraws(own.seeds, own.drawn)
    rewards = torch.rand(2, 10, generator=torch.Generator().manual_seed(4))
    plain = reinforced(policies, sampled(policies, CHOICES, 10, own), rewards, 0.03)
    other = reinforced(policies, sampled(policies, CHOICES, 10, start), 40 * rewards - 11, 0.03)
    assert torch.allclose(plain.weights, other.weights, atol=1e-4)
    assert not torch.allclose(plain.weights, policies.weights, atol=1e-2)


def test_images_do_not_know_of_each_other() -> None:
    """Training three together, with one leaving halfway, is training each alone."""

    def trained(own: ImageDraws, leaves: int | None) -> Policies:
        policies = fresh_policies(CHOICES, own)
        for step in range(6):
            if step == 3 and leaves is not None:
                kept = torch.arange(len(own)) != leaves
                policies, own = policies.chosen(kept), own.chosen(kept)
            sample = sampled(policies, CHOICES, 12, own)
            policies = reinforced(policies, sample, sample.choices.sum(dim=2).float(), 0.03)
        return policies

    together = trained(draws(3), leaves=1)
    for place, index in enumerate((0, 2)):
        alone = trained(ImageDraws(draws(3).seeds[index : index + 1]), leaves=None)
        assert torch.allclose(alone.weights[0], together.weights[place], atol=1e-4)


def test_some_policies_are_replaced() -> None:
    old, new = fresh_policies(CHOICES, draws(4)), fresh_policies(CHOICES, draws(2, seed=9))
    index = torch.tensor([False, True, False, True])
    mixed = old.put(index, new)
    for field, value in mixed._asdict().items():
        assert torch.equal(value[index], getattr(new, field))
        assert torch.equal(value[~index], getattr(old, field)[~index])


def test_the_first_weights_are_spread_as_torchs() -> None:
    policies = fresh_policies((50, 50), draws(40))
    cell, heads, embeddings = _unpacked(policies.weights, (50, 50))
    bound = HIDDEN**-0.5
    for values in (*cell, *heads):
        assert values.abs().max() <= bound
        assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    for values in (*embeddings, policies.first):
        assert float(values.std()) == pytest.approx(1, rel=0.08)
        assert abs(float(values.mean())) < 0.1
        assert float((values.abs() < 1).float().mean()) == pytest.approx(0.683, abs=0.03), "not normal"
