"""Which jobs the full checks add, and which variants of an attack they try."""

from __future__ import annotations

import pytest

from qpatchbench.suite.jobs.audit import AUDITED_IMAGES, AuditJob
from qpatchbench.suite.jobs.base import Sizes
from tests.suite.conftest import MakePlan


def test_full_checks_add_jobs_and_change_no_other(plan_of: MakePlan) -> None:
    fast, full = plan_of(), plan_of(evaluation={"checks": "full"})
    assert fast.audits == ()
    assert [job.key for job in full.jobs if not isinstance(job, AuditJob)] == [job.key for job in fast.jobs]
    assert full.cells == fast.cells
    # White box at 32 and at 4 bits; a float network has but one gradient.
    assert [(job.question, str(job.cell.target.bits)) for job in full.audits] == [
        ("ladder", "32"), ("second", "32"), ("ladder", "4"), ("gradients", "4"), ("second", "4"),
    ]  # fmt: skip
    assert all(job.upstream == (job.cell,) for job in full.audits)
    assert len({job.key for job in full.audits}) == 5
    assert "other budgets for lavan 4x4 on resnet20 qat qat@4, seed 0" in {job.label for job in full.audits}


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ({"name": "lavan", "size": 4, "steps": 100}, ["25 of 100 steps", "8x8 pixels instead of 4x4", "whole"]),
        ({"name": "lavan", "size": 4, "steps": 100, "targets": "untargeted"}, ["25 of 100 steps", "8x8"]),
        ({"name": "lavan", "size": 4, "steps": 1}, ["8x8", "whole"]),
        ({"name": "gap", "size": "25%", "steps": 3}, ["1 of 3 steps", "whole"]),
        ({"name": "patch_apgd", "size": 4, "restarts": 3}, ["25 of 100 steps", "1 of 3 restarts", "8x8", "whole"]),
        ({"name": "pgd", "targets": "untargeted"}, ["5 of 20 steps"]),
        ({"name": "fgsm"}, []),
        ({"name": "sparse_rs", "size": 4}, []),
    ],
)
def test_budgets_are_those_that_an_attack_has(
    plan_of: MakePlan, attack: dict[str, object], expected: list[str]
) -> None:
    plan = plan_of(attacks=[attack], evaluation={"checks": "full"})
    for job in [job for job in plan.audits if job.question == "ladder"]:
        named = zip(job.variants, expected, strict=True)
        assert [variant.name if text == "whole" else variant.text[: len(text)] for variant, text in named] == expected
        assert [variant.less for variant in job.variants] == [text.split()[1:2] == ["of"] for text in expected]
    assert bool(expected) == any(job.question == "ladder" for job in plan.audits)


def test_gradients_are_those_that_an_attack_does_not_follow(plan_of: MakePlan) -> None:
    def names(**fields: object) -> list[list[str]]:
        plan = plan_of(attacks=[{"name": "lavan", "size": 4, **fields}], evaluation={"checks": "full"})
        return [[variant.name for variant in job.variants] for job in plan.audits if job.question == "gradients"]

    assert names() == [["float", "identity"]]
    assert names(backward="float") == [["network", "identity"]]


def test_an_attack_through_a_preprocessor_is_audited_through_it(plan_of: MakePlan) -> None:
    plan = plan_of(
        preprocessors=["none", "jpeg"], transfer={"sources": ["same"]}, evaluation={"checks": "full"},
    )  # fmt: skip
    found = {
        (job.question, job.cell.target.preprocessor_title): [
            {source.preprocessor_title for source in variant.patch.sources} for variant in job.variants
        ]
        for job in plan.audits
    }
    for question in ("ladder", "gradients"):
        assert found[question, "jpeg"], question
        assert all(through == {"jpeg"} for through in found[question, "jpeg"])
        assert all(through == {"none"} for through in found[question, "none"])


def test_scales_of_each_image_are_one_more_gradient(plan_of: MakePlan) -> None:
    def names(**fields: object) -> list[list[str]]:
        plan = plan_of(
            attacks=[{"name": "lavan", "size": 4, **fields}], evaluation={"checks": "full"}, defenses=["none"],
            quantizers=[{"name": "dynamic", "bits": [32, 4]}],
        )  # fmt: skip
        return [[variant.name for variant in job.variants] for job in plan.audits if job.question == "gradients"]

    assert names() == [["float", "scales", "identity"]]
    assert names(backward="float") == [["network", "scales", "identity"]]
    assert names(backward="scales") == [["float", "network", "identity"]]


@pytest.mark.parametrize(("attack", "second"), [("lavan", "PlainLavan"), ("gap", "PlainGap"), ("patch_apgd", None)])
def test_second_implementations_are_asked_for_the_same(plan_of: MakePlan, attack: str, second: str | None) -> None:
    plan = plan_of(attacks=[{"name": attack, "size": 4, "steps": 7}], evaluation={"checks": "full"})
    jobs = [job for job in plan.audits if job.question == "second"]
    assert len(jobs) == (2 if second else 0)
    for job in jobs:
        (variant,) = job.variants
        assert type(variant.patch.attack).__name__ == second
        assert variant.patch.attack.model_dump() == job.cell.patch.attack.model_dump()
        assert variant.patch.key != job.cell.patch.key


def test_a_network_without_a_float_path_has_no_float_gradient(plan_of: MakePlan) -> None:
    plan = plan_of(quantizers=[{"name": "qat", "bits": [4]}], transfer={"sources": ["same"]},
                   evaluation={"checks": "full"})  # fmt: skip
    assert [[v.name for v in job.variants] for job in plan.audits if job.question == "gradients"] == [["identity"]]


def test_transferred_moved_ensemble_and_control_cells_are_not_audited(plan_of: MakePlan) -> None:
    sections = {"transfer": {"sources": [32, "same", "ensemble"]}, "sweep": {"shifts": [[2, 2]]}}
    plan = plan_of(**sections, evaluation={"checks": "full"})
    cells = [job.cell for job in plan.audits if job.question == "ladder"]
    assert len(cells) == 2
    assert all(cell.lineage == "same-network" and not cell.control for cell in cells)
    assert not any(str(cell.transformation) for cell in cells)


def test_costs_are_those_of_few_images(plan_of: MakePlan) -> None:
    sizes = Sizes(1000, 64, 128, 10_000)
    plan = plan_of(attacks=[{"name": "lavan_per_image", "size": 4, "steps": 100, "targets": "untargeted"}],
                   transfer={"sources": ["same"]}, evaluation={"checks": "full"})  # fmt: skip
    job = plan.audits[0]
    # A quarter of the steps, twice the size, the whole image: three of the cell's backward passes each 128 times.
    assert job.cost(sizes) == AUDITED_IMAGES * (3 * (25 + 100 + 100) + 3)
