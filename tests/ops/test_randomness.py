"""Seeds derived from roles: stable between machines, distinct between roles, and no global state."""

from __future__ import annotations

import itertools

import torch
from scipy.stats import chisquare, kstest

from qpatchbench.ops.randomness import ImageDraws, derive_generator, derive_seed, forked


def test_a_seed_never_changes() -> None:
    """Stored results depend on these numbers: another derivation changes every result."""
    assert derive_seed(0, "evaluation placement") == 5303723577856354603
    assert derive_seed(0, "training", 3) == 941885132754284271


def test_seeds_are_distinct_and_fit_a_generator() -> None:
    roles = [
        (seed, role, epoch) for seed in range(20) for role in ("training", "craft", "dropout") for epoch in range(20)
    ]
    seeds = {derive_seed(seed, role, epoch) for seed, role, epoch in roles}
    assert len(seeds) == len(roles)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # 63 bits, evenly used: a derivation that kept only few bits would share streams.
    high = sum(seed >> 62 for seed in seeds)
    assert 0.4 < high / len(seeds) < 0.6


def test_every_part_of_the_role_counts() -> None:
    variants = [(0,), (0, 1), (1, 0), (0, "craft"), (0, "craft", "gap"), (0, "gap", "craft"), (10,), (1, "craft")]
    for first, second in itertools.combinations(variants, 2):
        assert derive_seed(first[0], *first[1:]) != derive_seed(second[0], *second[1:])  # type: ignore[arg-type]


def test_generators_repeat_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.rand(100, generator=derive_generator(seed, "role")) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.4
    assert torch.equal(torch.get_rng_state(), before)


def splitmix64(seed: int, number: int) -> int:
    """The reference: the `number`-th output (from 1) of splitmix64 started at `seed`, in Python's own integers."""
    mask = 2**64 - 1
    mixed = (seed + number * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)


def test_image_draws_are_splitmix64() -> None:
    assert splitmix64(1234567, 1) == 6457827717110365317, "the published test vector"
    draws = ImageDraws(torch.tensor([0, 1234567, 2**62 - 1]))
    found = torch.cat([draws.uniform(2), draws.uniform(3)], dim=1)
    expected = [[(splitmix64(int(seed), n) >> 40) / 2**24 for n in range(1, 6)] for seed in draws.seeds]
    assert found.tolist() == expected


def test_image_draws_are_uniform_and_unrelated() -> None:
    draws = ImageDraws.of(200, torch.Generator().manual_seed(0), torch.device("cpu"))
    first, second = draws.uniform(300), draws.uniform(300)
    assert first.min() >= 0
    assert first.max() < 1
    for values in (first, second, first[:, :1], first.T[:1]):
        assert kstest(values.flatten().numpy(), "uniform").pvalue > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02
    neighbours = torch.corrcoef(torch.stack([first[:-1].flatten(), first[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.02
    counts = torch.bincount(draws.integers(7, 500).flatten(), minlength=7)
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_an_image_draws_the_same_whoever_is_beside_it() -> None:
    def start(count: int) -> ImageDraws:
        return ImageDraws.of(count, torch.Generator().manual_seed(5), torch.device("cpu"))

    many, few = start(40), start(7)
    assert torch.equal(many.uniform(2, 3)[:7], few.uniform(2, 3))
    mask = torch.arange(40) % 3 == 0
    some = many.chosen(mask)
    assert torch.equal(some.uniform(4), many.uniform(4)[mask])


def test_a_fork_moves_its_parent_by_one_draw() -> None:
    parent, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    torch.rand(1000, generator=forked(parent))
    forked(other)
    assert torch.equal(torch.rand(5, generator=parent), torch.rand(5, generator=other))
    assert not torch.equal(torch.rand(5, generator=forked(parent)), torch.rand(5, generator=forked(parent)))
