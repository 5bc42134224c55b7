"""Costs and similarities as jobs: what is compared with what, when, and what they depend on."""

from __future__ import annotations

from typing import Any

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.plan.plan import Plan
from tests.suite.conftest import MakePlan, MakeSuite

QAT = {"name": "qat", "bits": [32, 8, 4]}
SEPARATE = {"name": "qat", "label": "separate", "joint": False}
SECTIONS: dict[str, Any] = {
    "defenses": ["qat", SEPARATE, "any_precision"],
    "quantizers": [QAT],
    "analysis": {"costs": "qat", "similarity": True, "images": 32},
}


def cost_jobs(plan: Plan) -> list[CostJob]:
    return [job for job in plan.analyses if isinstance(job, CostJob)]


def similarity_jobs(plan: Plan) -> list[SimilarityJob]:
    return [job for job in plan.analyses if isinstance(job, SimilarityJob)]


def test_nothing_is_analysed_unasked(plan_of: MakePlan) -> None:
    assert plan_of().analyses == ()


def test_costs_compare_one_training_of_every_defense(plan_of: MakePlan) -> None:
    (job,) = cost_jobs(plan_of(**SECTIONS))
    assert [training.defense.title for training in job.trainings] == ["qat", "separate", "any_precision"]
    assert [len(training.bits) for training in job.trainings] == [3, 1, 3]
    assert job.reference.defense.title == "qat"


def test_costs_with_fewer_widths_begin_with_the_float_network(plan_of: MakePlan) -> None:
    sections = {**SECTIONS, "quantizers": [{"name": "qat", "bits": [8, 32, 4]}]}
    (plain,) = cost_jobs(plan_of(**sections))
    (job,) = cost_jobs(plan_of(**{**sections, "analysis": {"costs": "qat", "fewer_bits": True}}))
    assert job.trainings == plain.trainings
    widths = [(training.defense.title, " ".join(map(str, training.bits))) for training in job.narrowed]
    assert widths == [("qat", "32"), ("qat", "32 8"), ("any_precision", "32"), ("any_precision", "32 8")]
    assert job.key != plain.key
    assert job.upstream == plain.upstream, "what is narrowed starts from the same weights"


def test_widths_alone_are_worth_a_measurement(plan_of: MakePlan) -> None:
    sections = {**SECTIONS, "defenses": ["qat"]}
    assert cost_jobs(plan_of(**sections)) == []
    (job,) = cost_jobs(plan_of(**{**sections, "analysis": {"costs": "qat", "fewer_bits": True}}))
    assert len(job.narrowed) == 2


def test_costs_need_no_finished_training(plan_of: MakePlan) -> None:
    plan = plan_of(**SECTIONS, finetuning={"epochs": 1})
    (job,) = cost_jobs(plan)
    assert [earlier.label for earlier in job.upstream] == ["resnet20 none, seed 0"]
    place = {known.key: index for index, known in enumerate(plan.jobs)}
    assert all(place[earlier.key] < place[job.key] for earlier in job.upstream)


def test_costs_once_per_model_and_seed(plan_of: MakePlan) -> None:
    plan = plan_of(**SECTIONS, models=["resnet20", "vgg16"], seeds=[0, 1])
    found = [(job.reference.model.title, job.reference.seed) for job in cost_jobs(plan)]
    assert sorted(found) == [("resnet20", 0), ("resnet20", 1), ("vgg16", 0), ("vgg16", 1)]


def test_similarity_of_every_backbone(plan_of: MakePlan) -> None:
    jobs = similarity_jobs(plan_of(**SECTIONS))
    assert [job.networks[0].checkpoint.defense.title for job in jobs] == ["qat", "separate", "any_precision"]
    for job in jobs:
        assert sorted(str(network.bits) for network in job.networks) == ["32", "4", "8"]
        assert job.patch is None, "without a pool there is no patch that all of them share"


def test_similarity_with_the_first_patch_of_the_pool(plan_of: MakePlan) -> None:
    pool = {"seen": [{"name": "lavan", "size": 4}, {"name": "gap", "size": 6}]}
    jobs = similarity_jobs(plan_of(**SECTIONS, pool=pool))
    assert jobs, "no job was planned"
    for job in jobs:
        assert job.patch is not None
        assert (job.patch.attack.name, job.patch.side) == ("lavan", 4)
        assert job.patch in job.upstream


def test_every_quantizer_has_its_own_and_random_ones_none(plan_of: MakePlan) -> None:
    sections = {
        **SECTIONS,
        "defenses": ["qat", "empir"],
        "quantizers": [QAT, {"name": "ptq", "bits": [8, 4]}, {"name": "random_precision", "bits": [8]}],
    }
    jobs = similarity_jobs(
        plan_of(**sections, exclude=[{"defense": "empir", "quantizer": ["ptq", "random_precision"]}])
    )
    found = [{network.quantizer.name for network in job.networks} for job in jobs]
    assert found == [{"fp", "qat"}, {"fp", "ptq"}]
    assert {job.networks[0].checkpoint.defense.name for job in jobs} == {"qat"}, "an ensemble has no features"


def test_keys_depend_on_what_is_measured(plan_of: MakePlan) -> None:
    def keys(**changes: object) -> tuple[str, str]:
        plan = plan_of(**{**SECTIONS, **changes})
        return cost_jobs(plan)[0].key, similarity_jobs(plan)[0].key

    costs, similar = keys()
    assert keys(attacks=[{"name": "gap", "size": 4}]) == (costs, similar)
    assert keys(analysis={"costs": "qat", "similarity": True, "images": 33})[1] != similar
    other = keys(training={"epochs": 3})
    assert other[0] != costs
    assert other[1] != similar


def test_a_misspelt_reference_is_explained(make_suite: MakeSuite) -> None:
    with pytest.raises(SuiteError, match=r"analysis\.costs: expected a defense of this suite, qat, separate") as raised:
        make_suite(**{**SECTIONS, "analysis": {"costs": "seperate"}})
    assert "found 'seperate'. Did you mean: separate?" in str(raised.value)
