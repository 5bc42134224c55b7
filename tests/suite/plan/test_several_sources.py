"""Plans with several sources at once, with sweeps, and with attacks that look beyond one network."""

from __future__ import annotations

from typing import Any

import pytest

from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob
from qpatchbench.suite.plan.plan import Plan
from tests.suite.conftest import MakePlan

PTQ = {"name": "ptq", "bits": [8, 4]}
GAP: dict[str, Any] = {"name": "gap", "size": 4, "steps": 9}


def members(plan: Plan) -> set[tuple[str, ...]]:
    return {tuple(map(named, job.sources)) for job in plan.jobs if isinstance(job, CraftJob) and job.sources}


def named(job: DeployJob) -> str:
    return f"{job.checkpoint.model.title}/{job.quantizer.mode}@{job.bits}"


def cells_of(plan: Plan) -> list[EvaluateJob]:
    return [cell for cell in plan.cells if not cell.control]


def test_an_ensemble_is_all_bit_widths_of_one_backbone(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=["none"], quantizers=[PTQ], attacks=[GAP], transfer={"sources": ["ensemble"]})
    ensemble = ("resnet20/fp@32", "resnet20/ptq-minmax@8", "resnet20/ptq-minmax@4")
    assert members(plan) == {ensemble}
    assert {named(cell.target) for cell in cells_of(plan)} == set(ensemble[1:])
    assert {cell.lineage for cell in cells_of(plan)} == {"ensemble"}
    assert {cell.patch.source for cell in cells_of(plan)} == {None}


def test_the_float_network_belongs_to_the_ensemble_of_every_quantizer(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none"],
        quantizers=["fp", PTQ, {"name": "dynamic", "bits": [8]}],
        attacks=[GAP],
        transfer={"sources": ["ensemble"]},
    )
    assert members(plan) == {
        ("resnet20/fp@32", "resnet20/ptq-minmax@8", "resnet20/ptq-minmax@4"),
        ("resnet20/fp@32", "resnet20/dynamic@8"),
    }
    floats = [cell for cell in cells_of(plan) if cell.target.bits.is_float]
    assert len(floats) == 2


def test_attacks_meet_the_sources_that_they_can_be_crafted_on(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none"],
        quantizers=[PTQ],
        attacks=[GAP, {"name": "ensemble", "size": 4, "weighting": "worst"}, {"name": "lavan_per_image", "size": 4}],
        transfer={"sources": ["same", "ensemble"]},
    )
    found = {(cell.patch.attack.name, len(cell.patch.sources)) for cell in cells_of(plan)}
    assert found == {("gap", 1), ("gap", 3), ("ensemble", 3), ("lavan_per_image", 1)}


def test_other_models_leave_the_target_out(plan_of: MakePlan) -> None:
    plan = plan_of(
        models=["resnet20", "vgg16", "alexnet"],
        defenses=["none"],
        quantizers=["fp"],
        attacks=[GAP],
        transfer={"sources": ["other-models"]},
    )
    pairs = {(named(cell.target), tuple(map(named, cell.patch.sources))) for cell in cells_of(plan)}
    assert pairs == {
        ("resnet20/fp@32", ("vgg16/fp@32", "alexnet/fp@32")),
        ("vgg16/fp@32", ("resnet20/fp@32", "alexnet/fp@32")),
        ("alexnet/fp@32", ("resnet20/fp@32", "vgg16/fp@32")),
    }
    assert {cell.lineage for cell in cells_of(plan)} == {"independent"}


@pytest.mark.parametrize(
    ("filters", "ensembles", "singles"),
    [
        ({"exclude": [{"source_bits": "ensemble"}]}, 0, 2),
        ({"include": [{"source_bits": "ensemble"}]}, 2, 0),
        ({"include": [{"source_bits": ["ensemble", 8]}]}, 2, 1),
        ({"exclude": [{"source_model": "resnet20"}]}, 0, 0),
    ],
)
def test_filters_know_ensembles(plan_of: MakePlan, filters: dict[str, Any], ensembles: int, singles: int) -> None:
    plan = plan_of(
        defenses=["none"], quantizers=[PTQ], attacks=[GAP], transfer={"sources": ["same", "ensemble"]}, **filters
    )
    counts = [len(cell.patch.sources) for cell in cells_of(plan)]
    assert (counts.count(3), counts.count(1)) == (ensembles, singles)


def test_a_member_more_is_another_ensemble(plan_of: MakePlan) -> None:
    def key(bits: list[int]) -> str:
        quantizers = [{"name": "ptq", "bits": bits}]
        plan = plan_of(defenses=["none"], quantizers=quantizers, attacks=[GAP], transfer={"sources": ["ensemble"]})
        (job,) = (job for job in plan.jobs if isinstance(job, CraftJob) and job.sources)
        return job.key

    assert key([8, 4]) == key([8, 4])
    assert key([8, 4]) != key([8, 5, 4])


def test_an_attack_that_wants_siblings_gets_the_other_bit_widths(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none"], quantizers=[PTQ], attacks=[{"name": "autopatch", "size": 4}], transfer={"sources": ["same"]}
    )
    by_source = {named(job.sources[0]): job for job in plan.jobs if isinstance(job, CraftJob) and job.sources}
    assert [named(job) for job in by_source["resnet20/ptq-minmax@4"].siblings] == [
        "resnet20/fp@32",
        "resnet20/ptq-minmax@8",
    ]
    done: set[str] = set()
    for job in plan.jobs:
        assert {earlier.key for earlier in job.upstream} <= done
        done.add(job.key)


def test_a_sweep_tries_sizes_shifts_and_rotations_beside_what_is_stated(plan_of: MakePlan) -> None:
    sweep = {"sizes": [6, "4%"], "shifts": [[2, 2], [8, 8]], "rotations": [5, 30]}
    plan = plan_of(defenses=["none"], quantizers=["fp"], attacks=[GAP], transfer={"sources": ["same"]}, sweep=sweep)
    moves = ["", "rotation 30", "rotation 5", "shift 2,2", "shift 8,8"]
    for side, expected in ((4, moves), (6, [""]), (3, [""])):  # 4 % of 16 x 16 pixels is 3 x 3
        found = [cell for cell in cells_of(plan) if cell.patch.side == side]
        assert sorted(str(cell.transformation) for cell in found) == expected, "one thing at a time"
        assert len({cell.patch.key for cell in found}) == 1, "one patch, moved after it is crafted"
        assert len({cell.key for cell in found}) == len(expected)
        controls = [cell for cell in plan.cells if cell.control and cell.patch.side == side]
        assert sorted(str(cell.transformation) for cell in controls) == sorted(2 * expected)


def test_a_moved_patch_keeps_its_controls_beside_a_swept_one_of_its_size(plan_of: MakePlan) -> None:
    attacks = [{**GAP, "size": 6}, GAP]
    sweep = {"sizes": [6], "shifts": [[2, 2]]}
    plan = plan_of(defenses=["none"], quantizers=["fp"], attacks=attacks, transfer={"sources": ["same"]}, sweep=sweep)
    moved = {(cell.patch.side, str(cell.transformation)) for cell in cells_of(plan)}
    assert moved == {(side, move) for side in (4, 6) for move in ("", "shift 2,2")}
    for name in ("random", "grey"):
        controls = [cell for cell in plan.cells if cell.control and cell.patch.attack.name == name]
        assert sorted((cell.patch.side, str(cell.transformation)) for cell in controls) == sorted(moved)


def test_a_size_that_is_stated_twice_is_tried_once(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=["none"], quantizers=["fp"], attacks=[GAP], sweep={"sizes": [4, 6]})
    assert len(cells_of(plan)) == 2


def test_a_pixel_attack_is_not_swept_and_has_no_control(plan_of: MakePlan) -> None:
    plan = plan_of(
        defenses=["none"],
        quantizers=["fp"],
        attacks=[{"name": "fgsm", "targets": "untargeted"}],
        sweep={"sizes": [6], "shifts": [[2, 2]], "rotations": [5]},
    )
    assert [(cell.control, str(cell.transformation), cell.patch.side) for cell in plan.cells] == [(False, "", 16)]


def test_following_the_float_path_is_part_of_the_patch(plan_of: MakePlan) -> None:
    def keys(backward: str) -> list[str]:
        attack = {**GAP, "backward": backward}
        plan = plan_of(defenses=["none"], quantizers=[PTQ], attacks=[attack], transfer={"sources": ["same"]})
        return [job.key for job in plan.jobs if isinstance(job, CraftJob) and job.sources]

    assert not set(keys("network")) & set(keys("float"))
