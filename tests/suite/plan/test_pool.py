"""The patch pool: crafted on the undefended network, split so that seen and unseen share nothing, part of a key."""

from __future__ import annotations

from typing import Any

import pytest

from qpatchbench.defenses import qat
from qpatchbench.errors import SuiteError
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.plan.plan import Plan
from tests.suite.conftest import MakePlan, MakeSuite

POOL: dict[str, Any] = {
    "seen": [{"name": "lavan", "size": 4}, {"name": "lavan", "size": 6}],
    "unseen": [{"name": "gap", "size": 5}],
    "unseen_quantizer": {"name": "ptq", "bits": [4]},
}


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """`qat` asks for patches in this test."""
    monkeypatch.setattr(qat.QuantizationAwareTraining, "wants_pool", property(lambda self: True))


def split(plan: Plan) -> dict[tuple[str, int, str, str], str]:
    """(attack, side, source bits, source defense) -> seen, of every cell that is no control."""
    return {
        (cell.patch.attack.name, cell.patch.side, str(source.bits), source.checkpoint.defense.name): cell.seen
        for cell in plan.cells
        if (source := cell.patch.source) is not None
    }


def test_every_network_meets_every_patch_of_the_pool(plan_of: MakePlan) -> None:
    plan = plan_of(pool=POOL)
    found = split(plan)
    assert {key: seen for key, seen in found.items() if seen} == {
        ("lavan", 4, "32", "none"): "seen",
        ("lavan", 6, "32", "none"): "seen",
        ("gap", 5, "4", "none"): "unseen",
    }
    white_box = {seen for key, seen in found.items() if key[3] == "qat"}
    assert white_box == {""}, "a patch crafted on the target is neither, whatever its attack and size"
    for cell in plan.cells:
        if cell.seen:
            assert cell.lineage == "independent", "trained from scratch"
    targets = {(str(cell.target.bits), cell.seen) for cell in plan.cells if cell.seen}
    assert targets == {(bits, seen) for bits in ("32", "4") for seen in ("seen", "unseen")}


def test_controls_cover_the_sizes_of_the_pool(plan_of: MakePlan) -> None:
    sides = {cell.patch.side for cell in plan_of(pool=POOL).cells if cell.control}
    assert sides == {4, 5, 6}


def test_the_pool_is_crafted_before_the_training_that_wants_it(plan_of: MakePlan, pooled: None) -> None:
    jobs = plan_of(pool={**POOL, "repeats": 2}).jobs
    trained = next(job for job in jobs if isinstance(job, TrainJob) and job.defense.name == "qat")
    assert [(patch.attack.name, patch.side, patch.seed) for patch in trained.pool] == [
        ("lavan", 4, 0),
        ("lavan", 6, 0),
        ("lavan", 4, 1_000_003),
        ("lavan", 6, 1_000_003),
    ]
    place = {job.key: index for index, job in enumerate(jobs)}
    assert all(place[patch.key] < place[trained.key] for patch in trained.pool)
    measured = {cell.patch.seed for cell in jobs if isinstance(cell, EvaluateJob) and cell.seen == "seen"}
    assert measured == {0}, "repeats are for training only"


def test_only_what_is_trained_on_decides_the_weights(plan_of: MakePlan, pooled: None) -> None:
    def key(**pool: object) -> str:
        jobs = plan_of(pool={**POOL, **pool}).jobs
        return next(job.key for job in jobs if isinstance(job, TrainJob) and job.defense.name == "qat")

    assert key() == key(unseen=[{"name": "gap", "size": 7}])
    assert key() == key(unseen_quantizer={"name": "ptq", "bits": [8]})
    assert len({key(), key(seen=POOL["seen"][:1]), key(repeats=2)}) == 3


def test_a_defense_that_wants_no_pool_keeps_its_weights(plan_of: MakePlan) -> None:
    def trained(plan: Plan) -> str:
        return next(job.key for job in plan.jobs if isinstance(job, TrainJob) and job.defense.name == "qat")

    assert trained(plan_of()) == trained(plan_of(pool=POOL))


def test_the_very_patch_is_seen_wherever_the_suite_meets_it(plan_of: MakePlan) -> None:
    """With `none` among the defenses, its own 32-bit patch is the pool's."""
    plan = plan_of(
        pool=POOL,
        defenses=["none"],
        quantizers=[{"name": "ptq", "bits": [32, 4]}],
        transfer={"sources": ["same"]},
    )
    whole = {(key[0], key[1], key[2]): seen for key, seen in split(plan).items()}
    assert whole[("lavan", 4, "32")] == "seen"
    assert whole[("lavan", 4, "4")] == "", "another network's patch"
    keys = [cell.key for cell in plan.cells]
    assert len(keys) == len(set(keys))


def test_filters_apply_to_the_pool(plan_of: MakePlan) -> None:
    plan = plan_of(pool=POOL, exclude=[{"attack": "gap"}, {"source_defense": "none", "target_bits": 4}])
    assert {(cell.patch.attack.name, str(cell.target.bits)) for cell in plan.cells if cell.seen} == {("lavan", "32")}


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ({"unseen": [{"name": "lavan", "size": 5}]}, "expected an attack that is not among the seen ones, found lavan"),
        ({"unseen": [{"name": "gap", "size": 6}]}, "expected a size that no seen patch has, found 6x6"),
        ({"unseen_quantizer": {"name": "ptq", "bits": [32]}}, "expected bits below 32, at which the seen patches are"),
        ({"unseen_quantizer": {"name": "qat", "bits": [4]}}, "expected a quantizer that needs no training"),
        ({"unseen_quantizer": {"name": "ptq"}}, "required key 'bits' is missing"),
        ({"unseen_quantizer": "ptqq"}, "Did you mean: ptq?"),
        ({"unseen_quantizer": None}, "expected the name of a quantizer, or a mapping with name and fields"),
        ({"seen": [{"name": "patch_apgd", "size": 4}]}, "expected a universal attack to train on, found patch_apgd"),
        ({"unseen": [{"name": "fgsm"}]}, "expected a patch attack on one network, found fgsm"),
        ({"seen": [{"name": "lavan", "size": 40}]}, "expected a patch that fits into the 16x16 images"),
        ({"seen": [{"name": "lavan", "size": 4, "targets": [99]}]}, "expected class ids in 0..9"),
        ({"seen": [{"name": "lavam", "size": 4}]}, "Did you mean: lavan?"),
        ({"seen": "lavan"}, "expected a list of attacks, found 'lavan'"),
        ({"unsen": []}, "unknown key 'unsen'. Did you mean: unseen?"),
    ],
)
def test_wrong_pools_are_explained(make_suite: MakeSuite, pool: dict[str, object], expected: str) -> None:
    with pytest.raises(SuiteError) as raised:
        make_suite(pool={**POOL, **pool})
    assert expected in str(raised.value), str(raised.value)
    assert "small.yaml:" in str(raised.value)


def test_unseen_patches_need_to_be_told_how(make_suite: MakeSuite) -> None:
    pool = {name: value for name, value in POOL.items() if name != "unseen_quantizer"}
    with pytest.raises(SuiteError, match=r"pool\.unseen: expected unseen_quantizer beside it, for example"):
        make_suite(pool=pool)


def test_a_defense_without_its_pool_is_explained(make_suite: MakeSuite, pooled: None) -> None:
    with pytest.raises(SuiteError, match=r"qat trains on patches made beforehand: add pool: \{seen:"):
        make_suite()


def test_the_pool_is_read_with_its_defaults(make_suite: MakeSuite) -> None:
    pool = make_suite(pool={"seen": [{"name": "lavan", "size": 4}]}).pool
    assert pool is not None
    assert (pool.unseen, pool.unseen_bits, pool.repeats) == ((), (), 1)
