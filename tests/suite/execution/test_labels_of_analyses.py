"""Tables of analyses carry the labels of the suite that asks, whichever suite filled the cache."""

from __future__ import annotations

from typing import Any

from qpatchbench.suite.execution.export_analyses import named
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Artifact
from tests.suite.conftest import MakePlan

QAT = {"name": "qat", "bits": [32, 8, 4]}


def plan(plan_of: MakePlan, *, own: bool) -> Plan:
    """The same experiment, under its components' names or under labels."""
    model, first, second, attack = ("net", "one", "two", "mine") if own else ("resnet20", "qat", "separate", "lavan")
    return plan_of(
        models=[{"name": "resnet20", "label": model}],
        defenses=[{"name": "qat", "label": first}, {"name": "at_pgd", "label": second, "steps": 2}],
        quantizers=[QAT],
        attacks=[{"name": "lavan", "size": 4, "label": attack}],
        analysis={"costs": first, "similarity": True, "maps": 2, "images": 8},
    )


def artifact(job: CostJob | SimilarityJob | MapsJob) -> Artifact:
    """What another suite left, under labels of its own."""
    old: dict[str, Any] = {"model": "old", "defense": "old", "value": 1}
    if isinstance(job, CostJob):
        trainings = (*job.trainings, *job.narrowed)
        return Artifact({}, {"rows": [{**old, "reference": "old", "number": place} for place in range(len(trainings))]})
    old["quantization"] = "old"
    if isinstance(job, SimilarityJob):
        return Artifact({}, {"rows": [old, old]})
    return Artifact({}, {**old, "gradients": [old], "gradcam": [old], "patch": {"attack": "old"}, "images": ["a"]})


def test_no_label_of_another_suite_is_left(plan_of: MakePlan) -> None:
    before, after = plan(plan_of, own=False), plan(plan_of, own=True)
    assert [job.key for job in before.analyses] == [job.key for job in after.analyses], "the same artifacts"
    assert {job.kind for job in after.analyses} == {"cost", "similarity", "maps"}
    for job in after.analyses:
        found = named(job, artifact(job)).facts
        assert "old" not in str(found)
        assert "net" in str(found)
        if isinstance(job, CostJob):
            assert [(row["number"], row["defense"]) for row in found["rows"]] == [(0, "one"), (1, "two")]
            assert {row["reference"] for row in found["rows"]} == {"one"}
        elif isinstance(job, MapsJob):
            assert found["defense"] in ("one", "two")
            assert found["patch"]["attack"] == "mine"
            assert found["images"] == ["a"]
        else:
            assert {row["value"] for row in found["rows"]} == {1}
