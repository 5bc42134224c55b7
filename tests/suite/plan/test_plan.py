"""Plans: how many jobs a suite means, counted by hand, in which order, and what changes whose key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from qpatchbench.suite.jobs import base as jobs
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob, float_deployment
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import key_of
from qpatchbench.types import FLOAT
from tests.suite.conftest import MakePlan, MakeSuite

QAT = {"name": "qat", "bits": [32, 4]}
THREE = {"name": "qat", "bits": [32, 8, 4]}
PTQ = {"name": "ptq", "bits": [8, 4]}
KINDS = ("train", "deploy", "craft", "evaluate")
OLDER = {"train": "other", "calibration": "other", "craft": "other", "evaluation": "other"}


def counts(plan: Plan) -> tuple[int, ...]:
    """Number of jobs of each kind, controls among patches and cells."""
    found = Counter(str(job.kind) for job in plan.jobs)
    return tuple(found[kind] for kind in KINDS)


def transfers(plan: Plan) -> set[tuple[str, str]]:
    """(source, target) of every attack that is no control, as "model/defense/quantizer@bits"."""
    return {
        (named(cell.patch.source), named(cell.target))
        for cell in plan.cells
        if not cell.control and cell.patch.source is not None
    }


def named(job: DeployJob) -> str:
    return f"{job.checkpoint.model.title}/{job.checkpoint.defense.title}/{job.quantizer.mode}@{job.bits}"


def keys(plan: Plan, kind: str) -> set[str]:
    return {job.key for job in plan.jobs if job.kind == kind}


def changed(before: Plan, after: Plan) -> set[str]:
    """Kinds of jobs none of whose keys is the same."""
    kinds = set()
    for kind in KINDS:
        shared = keys(before, kind) & keys(after, kind)
        assert shared in (set(), keys(before, kind)), f"only some keys of {kind} change"
        if not shared:
            kinds.add(kind)
    return kinds


# Counts by hand. A control (random, grey) is one patch per size, goals and seed, and one cell per target.


@pytest.mark.parametrize(
    ("sources", "patches", "cells"),
    [
        (["same"], 3, 3),  # the diagonal
        ([32], 1, 3),  # one source, three targets
        ([32, "same"], 3, 5),  # row and diagonal share one cell
        (["all"], 3, 9),  # the whole matrix
        (["all", 32, "same", 8], 3, 9),  # nothing is counted twice
        ([8, 4], 2, 6),
    ],
)
def test_sources(plan_of: MakePlan, sources: list[Any], patches: int, cells: int) -> None:
    plan = plan_of(quantizers=[THREE], transfer={"sources": sources})
    assert counts(plan) == (1, 3, patches + 2, cells + 2 * 3)


def test_separate_training_is_one_checkpoint_per_width(plan_of: MakePlan) -> None:
    plan = plan_of(quantizers=[THREE], defenses=[{"name": "qat", "joint": False}], transfer={"sources": ["same"]})
    assert counts(plan) == (3, 3, 5, 9)
    assert sorted(len(job.bits) for job in plan.jobs if isinstance(job, TrainJob)) == [1, 1, 1]


def test_finetuning_starts_from_one_float_network(plan_of: MakePlan) -> None:
    plan = plan_of(finetuning={"epochs": 2}, transfer={"sources": ["same"]})
    trainings = [job for job in plan.jobs if isinstance(job, TrainJob)]
    assert [(job.defense.name, job.settings.epochs) for job in trainings] == [("none", 200), ("qat", 2)]
    assert trainings[1].initial == trainings[0]


def test_post_training_quantizers_share_the_float_weights(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=["none"], quantizers=[PTQ], transfer={"sources": [32, "same"]})
    # Sources: the float network, and each target itself; the float network is deployed although it is no target.
    assert counts(plan) == (1, 3, 3 + 2, 4 + 4)
    assert ("resnet20/none/fp@32", "resnet20/none/ptq-minmax@4") in transfers(plan)


def test_a_float_member_is_the_same_network_in_every_quantizer(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none"],
        quantizers=["fp", {"name": "ptq", "bits": [32, 4]}, {"name": "dynamic", "bits": [32, 4]}],
        transfer={"sources": ["same"]},
    )
    # Three names for one float network, and two quantized ones.
    assert counts(plan) == (1, 3, 3 + 2, 3 + 6)
    floats = [job for job in plan.jobs if isinstance(job, DeployJob) and job.bits == FLOAT]
    assert [job.quantizer.mode for job in floats] == ["fp"]


@pytest.mark.parametrize(("which", "cells"), [("same", 4), ("all", 8)])
def test_architectures(plan_of: MakePlan, which: str, cells: int) -> None:
    plan = plan_of(models=["resnet20", "vgg16"], transfer={"sources": [32], "architectures": which})
    assert counts(plan) == (2, 4, 2 + 2, cells + 8)
    across = {(source, target) for source, target in transfers(plan) if source.split("/")[0] != target.split("/")[0]}
    assert len(across) == (4 if which == "all" else 0)


@pytest.mark.parametrize(("which", "cells"), [("same", 4), ("all", 8)])
def test_defenses(plan_of: MakePlan, which: str, cells: int) -> None:
    plan = plan_of(
        defenses=["qat", {"name": "qat", "label": "again", "joint": False}],
        transfer={"sources": [32], "defenses": which},
    )
    # Jointly one checkpoint, separately two.
    assert counts(plan) == (3, 4, 2 + 2, cells + 8)


def test_an_undefended_float_network_attacks_what_it_cannot_be_deployed_as(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none", "qat"],
        transfer={"sources": [32], "defenses": "all"},
        exclude=[{"defense": "none", "quantizer": "qat"}],
    )
    assert transfers(plan) == {
        (source, target)
        for source in ("resnet20/none/fp@32", "resnet20/qat/fp@32")
        for target in ("resnet20/qat/fp@32", "resnet20/qat/qat@4")
    }


def test_seeds_multiply_everything(plan_of: MakePlan) -> None:
    one, three = plan_of(), plan_of(seeds=[0, 1, 2])
    assert counts(three) == tuple(3 * number for number in counts(one))
    assert {job.key for job in one.jobs} < {job.key for job in three.jobs}


def test_a_seed_is_left_out_of_some_defenses(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["qat", {"name": "qat", "label": "again", "joint": False}],
        seeds=[0, 1],
        exclude=[{"defense": "again", "seed": 1}],
    )
    trained = {(job.defense.title, job.seed) for job in plan.jobs if isinstance(job, TrainJob)}
    assert trained == {("qat", 0), ("qat", 1), ("again", 0)}


def test_controls_are_one_per_size_and_goals(plan_of: MakePlan) -> None:
    lavan: dict[str, Any] = {"name": "lavan", "size": 4}
    attacks = [
        lavan,
        {"name": "gap", "size": 4},
        {**lavan, "size": 5},
        {**lavan, "label": "one", "targets": [1]},
    ]
    plan = plan_of(attacks=attacks, transfer={"sources": ["same"]})
    controls = {job.patch.key: job for job in plan.cells if job.control}
    assert Counter((job.patch.attack.name, job.patch.side, len(job.patch.goals)) for job in controls.values()) == {
        (name, size, goals): 1 for name in ("random", "grey") for size, goals in ((4, 10), (5, 10), (4, 1))
    }
    assert sum(job.control for job in plan.cells) == 6 * 2
    assert sum(not job.control for job in plan.cells) == 4 * 2


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"exclude": [{"target_bits": 4}]}, {("32", "32"), ("4", "32")}),
        ({"exclude": [{"source_bits": 4}]}, {("32", "32"), ("32", "4")}),
        ({"exclude": [{"source_bits": 4, "target_bits": 32}]}, {("32", "32"), ("32", "4"), ("4", "4")}),
        ({"exclude": [{"source_bits": 4}, {"target_bits": 32}]}, {("32", "4")}),
        ({"include": [{"source_bits": [32]}]}, {("32", "32"), ("32", "4")}),
        ({"include": [{"source_bits": 4, "target_bits": 4}, {"target_bits": 32}]},
         {("4", "4"), ("32", "32"), ("4", "32")}),
        ({"include": [{"target_bits": 4}], "exclude": [{"source_bits": 4}]}, {("32", "4")}),
        ({"exclude": [{"quantizer": "qat", "source_model": "resnet20", "target_bits": [4]}]},
         {("32", "32"), ("4", "32")}),
    ],
)  # fmt: skip
def test_filters(plan_of: MakePlan, filters: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    found = transfers(plan_of(transfer={"sources": ["all"]}, **filters))
    assert {(source.split("@")[1], target.split("@")[1]) for source, target in found} == expected


def test_nothing_is_trained_for_what_is_excluded(plan_of: MakePlan) -> None:
    plan = plan_of(models=["resnet20", "vgg16"], exclude=[{"model": "vgg16"}])
    assert {job.model.name for job in plan.jobs if isinstance(job, TrainJob)} == {"resnet20"}


def test_each_job_comes_after_what_it_needs_and_once(plan_of: MakePlan) -> None:
    plan = plan_of(
        models=["resnet20", "vgg16"],
        finetuning={"epochs": 1},
        quantizers=[THREE, PTQ],
        transfer={"sources": ["all", 32], "architectures": "all"},
        seeds=[0, 1],
    )
    done: set[str] = set()
    for job in plan.jobs:
        assert job.key not in done
        assert {earlier.key for earlier in job.upstream} <= done, job.label
        done.add(job.key)


def test_lineage_says_how_weights_are_related(plan_of: MakePlan) -> None:
    plan = plan_of(
        models=["resnet20", "vgg16"],
        defenses=["none", "qat"],
        finetuning={"epochs": 1},
        transfer={"sources": [32, "same"], "architectures": "all", "defenses": "all"},
        exclude=[{"defense": "none", "quantizer": "qat"}],
    )
    lineage = {(named(cell.patch.source), named(cell.target)): cell.lineage for cell in plan.cells if cell.patch.source}
    assert lineage["resnet20/qat/qat@4", "resnet20/qat/qat@4"] == "same-network"
    assert lineage["resnet20/qat/fp@32", "resnet20/qat/qat@4"] == "shared-weights"
    assert lineage["resnet20/none/fp@32", "resnet20/qat/qat@4"] == "fine-tuned"
    assert lineage["vgg16/qat/fp@32", "resnet20/qat/qat@4"] == "independent"
    assert {cell.lineage for cell in plan.cells if cell.control} == {""}


def test_the_float_sibling_is_of_the_same_weights(plan_of: MakePlan) -> None:
    joint = [job for job in plan_of().jobs if isinstance(job, DeployJob)]
    siblings = [float_deployment(job) for job in joint]
    assert [sibling and sibling.key for sibling in siblings] == [joint[0].key] * 2
    separate = plan_of(defenses=[{"name": "qat", "joint": False}])
    assert {
        float_deployment(job) is None for job in separate.jobs if isinstance(job, DeployJob) and job.bits != FLOAT
    } == {True}


# What changes whose key. Everything downstream of a change changes too, and nothing else.

ALL = {"train", "deploy", "craft", "evaluate"}
SUITE: dict[str, Any] = {
    "quantizers": [QAT],
    "attacks": [{"name": "lavan", "size": 4, "steps": 9}],
    "transfer": {"sources": ["same"]},
}
CHANGES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("a field of the model", {"models": [{"name": "resnet20", "mean": [0.5, 0.5, 0.5]}]}, ALL),
    ("another model", {"models": ["vgg16"]}, ALL),
    ("epochs", {"training": {"epochs": 3}}, ALL),
    ("precision", {"training": {"precision": "bf16-mixed"}}, ALL),
    ("a field of the defense", {"defenses": [{"name": "qat", "joint": False}]}, ALL),
    ("a field of the trained quantizer", {"quantizers": [{**QAT, "scale": "mse"}]}, ALL),
    ("bits that share the weights", {"quantizers": [{"name": "qat", "bits": [32, 5]}]}, ALL),
    ("the seed", {"seeds": [1]}, ALL),
    ("training images", {"data": {"train": "other"}}, ALL),
    ("calibration images of trained quantizers", {"data": {"calibration": "other"}}, ALL),
    ("weights", {"weights": "other"}, ALL),
    ("evaluation images", {"data": {"evaluation": "other"}}, {"deploy", "evaluate"}),
    ("the limit", {"limit": 5}, {"deploy", "evaluate"}),
    ("the seed of placements", {"evaluation": {"placement_seed": 1}}, {"evaluate"}),
    ("a label of the model", {"models": [{"name": "resnet20", "label": "mine"}]}, set()),
    ("a label of the defense", {"defenses": [{"name": "qat", "label": "mine"}]}, set()),
    ("a label of the quantizer", {"quantizers": [{**QAT, "label": "mine"}]}, set()),
    ("a label of the attack", {"attacks": [{"name": "lavan", "size": 4, "steps": 9, "label": "mine"}]}, set()),
    ("the batch size of evaluation", {"evaluation": {"batch_size": 7}}, set()),
    ("how thorough the checks are", {"evaluation": {"checks": "full"}}, set()),
    ("the name of the suite", {"suite": "other", "description": "other"}, set()),
    ("a default that is spelt out", {"training": {"epochs": 200}, "defenses": [{"name": "qat", "joint": True}]}, set()),
]


@pytest.mark.parametrize(("change", "expected"), [pytest.param(c, e, id=what) for what, c, e in CHANGES])
def test_a_change_reaches_the_keys_that_it_must_and_no_other(
    plan_of: MakePlan, change: dict[str, Any], expected: set[str]
) -> None:
    before, after = plan_of(**SUITE), plan_of(**{**SUITE, **change})
    # Controls look at no network and no image: only goals, size and seed decide them.
    shared = {job.key for job in before.jobs if isinstance(job, CraftJob) and job.source is None}
    after_controls = {job.key for job in after.jobs if isinstance(job, CraftJob) and job.source is None}
    assert (shared == after_controls) is ("seeds" not in change)
    assert changed(without_controls(before), without_controls(after)) == expected


def without_controls(plan: Plan) -> Plan:
    kept = [job for job in plan.jobs if not (isinstance(job, CraftJob) and job.source is None)]
    return Plan(plan.suite, tuple(job for job in kept if not (isinstance(job, EvaluateJob) and job.control)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": 10}, {"craft", "evaluate"}),
        ({"step_size": 0.01}, {"craft", "evaluate"}),
        ({"batch_size": 8}, {"craft", "evaluate"}),
        ({"size": 5}, {"craft", "evaluate"}),
        ({"targets": [1]}, {"craft", "evaluate"}),
        ({"name": "gap"}, {"craft", "evaluate"}),
    ],
)
def test_a_field_of_an_attack_makes_new_patches_for_old_networks(
    plan_of: MakePlan, change: dict[str, Any], expected: set[str]
) -> None:
    attack = {"name": "lavan", "size": 4, "steps": 9}
    before = without_controls(plan_of(**SUITE))
    after = without_controls(plan_of(**{**SUITE, "attacks": [{**attack, **change}]}))
    assert changed(before, after) == expected


def test_images_for_crafting_reach_attacks_that_learn_only(plan_of: MakePlan) -> None:
    other = {"craft": "other"}
    before, after = without_controls(plan_of(**SUITE)), without_controls(plan_of(**SUITE, data=other))
    assert changed(before, after) == {"craft", "evaluate"}
    per_image = {**SUITE, "attacks": [{"name": "lavan_per_image", "size": 4}]}
    before, after = plan_of(**per_image), plan_of(**per_image, data=other)
    assert changed(before, after) == set()


def test_a_per_image_patch_is_of_the_images_and_places_it_is_measured_on(plan_of: MakePlan) -> None:
    per_image = {**SUITE, "attacks": [{"name": "lavan_per_image", "size": 4}]}
    before = without_controls(plan_of(**per_image))
    moved = without_controls(plan_of(**per_image, evaluation={"placement_seed": 1}))
    assert changed(before, moved) == {"craft", "evaluate"}
    others = without_controls(plan_of(**per_image, data={"evaluation": "other"}))
    assert changed(before, others) == {"deploy", "craft", "evaluate"}


def test_calibration_reaches_what_is_calibrated(plan_of: MakePlan) -> None:
    suite: dict[str, Any] = {"defenses": ["none"], "quantizers": [PTQ], "transfer": {"sources": ["same"]}}
    before, after = plan_of(**suite), plan_of(**suite, data={"calibration": "other"})
    before, after = without_controls(before), without_controls(after)
    assert changed(before, after) == {"deploy", "craft", "evaluate"}
    one_field = without_controls(plan_of(**{**suite, "quantizers": [{**PTQ, "calibration": "percentile"}]}))
    assert changed(before, one_field) == {"deploy", "craft", "evaluate"}


def test_weights_from_a_file_need_no_schedule_seed_or_images(plan_of: MakePlan) -> None:
    suite: dict[str, Any] = {
        "models": [{"name": "resnet20", "weights": "some.safetensors"}],
        "defenses": ["none"],
        "quantizers": [PTQ],
        "weights": "hash",
    }
    before = plan_of(**suite)
    for change in ({"training": {"epochs": 3}}, {"seeds": [1]}, {"data": OLDER}):
        assert keys(plan_of(**{**suite, **change}), "train") == keys(before, "train")
    assert keys(plan_of(**{**suite, "weights": "other"}), "train").isdisjoint(keys(before, "train"))


def test_one_more_width_redoes_no_post_training_network(plan_of: MakePlan) -> None:
    suite: dict[str, Any] = {"defenses": ["none"], "transfer": {"sources": ["same"]}}
    before = plan_of(**suite, quantizers=[PTQ])
    after = plan_of(**suite, quantizers=[{"name": "ptq", "bits": [8, 4, 2]}])
    assert {job.key for job in before.jobs} < {job.key for job in after.jobs}


def test_switching_checks_off_is_seen_in_what_shows_them(plan_of: MakePlan) -> None:
    before, after = plan_of(**SUITE), plan_of(**SUITE, evaluation={"checks": "off"})
    assert changed(before, after) == {"deploy", "craft", "evaluate"}


@pytest.mark.parametrize(
    ("kind", "section", "downstream"),
    [
        ("models", "models", ALL),
        ("defenses", "defenses", ALL),
        ("quantizers", "quantizers", ALL),
        ("attacks", "attacks", {"craft", "evaluate"}),
    ],
)
def test_a_component_of_another_version_is_computed_again(
    plan_of: MakePlan,
    make_suite: MakeSuite,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    section: str,
    downstream: set[str],
) -> None:
    before = without_controls(plan_of(**SUITE))
    assert {job.key for job in before.jobs}  # keys are computed once and kept
    component = type(getattr(make_suite(**SUITE), section)[0])
    monkeypatch.setattr(component, "version", component.version + 1)
    assert changed(before, without_controls(plan_of(**SUITE))) == downstream


def test_equal_jobs_of_different_suites_have_equal_keys(plan_of: MakePlan) -> None:
    alone = plan_of(attacks=[{"name": "lavan", "size": 4}])
    among = plan_of(models=["vgg16", "resnet20"], attacks=[{"name": "gap", "size": 4}, {"name": "lavan", "size": 4}])
    assert {job.key for job in alone.jobs} < {job.key for job in among.jobs}


def test_the_plan_has_a_key_of_its_own_for_what_the_report_shows(plan_of: MakePlan) -> None:
    assert plan_of().key == plan_of().key
    assert plan_of().key != plan_of(description="other words").key


def test_a_plan_hashes_a_job_less_than_twice(plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What planning costs is what hashing costs; a job that is made anew for each question is hashed anew."""
    hashed = 0

    def counted(identity: Mapping[str, Any]) -> str:
        nonlocal hashed
        hashed += 1
        return key_of(identity)

    monkeypatch.setattr(jobs, "key_of", counted)
    plan = plan_of(
        models=["resnet20", "vgg16"],
        defenses=["qat", "triqdef"],
        quantizers=[THREE, PTQ],
        attacks=[{"name": "lavan", "size": 4}, {"name": "ensemble", "size": 4}],
        pool={"seen": [{"name": "gap", "size": 3}, {"name": "gap", "size": 5}]},
        transfer={"sources": ["all", "same", "ensemble"], "architectures": "all"},
        seeds=[0, 1],
    )
    distinct_keys = {job.key for job in plan.jobs}
    assert len(distinct_keys) == len(plan.jobs) > 400
    assert hashed < 2 * len(plan.jobs)
