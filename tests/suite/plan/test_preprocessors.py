"""Suites with preprocessors: which networks they mean, what is crafted on what, and whose keys they change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.preprocessors import CATALOGUE as BUILT_INS
from qpatchbench.registry import PREPROCESSORS
from qpatchbench.suite.file.json_schema import suite_schema
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, float_deployment
from qpatchbench.suite.jobs.versions import JOB_VERSIONS
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import key_of
from qpatchbench.suite.work.evaluate import record_of
from qpatchbench.types import FLOAT
from tests.preprocessors.shades import CATALOGUES
from tests.suite.conftest import MakePlan, MakeSuite

BOTH = ["none", "window"]


@pytest.fixture(autouse=True)
def _shades(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preprocessors of tests, registered for one test."""
    for name in ("entries", "outside"):
        monkeypatch.setitem(PREPROCESSORS.__dict__, name, getattr(PREPROCESSORS, name))
    for name, entry in CATALOGUES["preprocessors"].items():
        PREPROCESSORS.add(name, replace(entry, plugin="shades"))


def keys(plan: Plan) -> set[str]:
    return {job.key for job in plan.jobs}


def networks(plan: Plan) -> dict[str, DeployJob]:
    return {job.label.partition(", seed")[0]: job for job in plan.jobs if isinstance(job, DeployJob)}


def crafted(plan: Plan) -> set[tuple[str, str]]:
    """(sources, target) of every patch that is no control, as bits + preprocessor."""
    return {
        (" ".join(_named(source) for source in cell.patch.sources), _named(cell.target))
        for cell in plan.cells
        if not cell.control
    }


def _named(job: DeployJob) -> str:
    return f"{job.bits}" if job.preprocessor_title == "none" else f"{job.bits}+{job.preprocessor_title}"


@pytest.mark.parametrize("sources", [["same"], [32, "same"], ["all", "same"]])
def test_none_is_what_a_suite_without_preprocessors_means(plan_of: MakePlan, sources: list[Any]) -> None:
    transfer = {"sources": sources}
    plain = plan_of(transfer=transfer)
    assert [job.key for job in plan_of(transfer=transfer, preprocessors=["none"]).jobs] == [j.key for j in plain.jobs]
    assert [job.key for job in plan_of(transfer=transfer, preprocessors=[]).jobs] == [job.key for job in plain.jobs]
    assert keys(plain) < keys(plan_of(transfer=transfer, preprocessors=BOTH)), "what is finished stays finished"


@pytest.mark.parametrize("preprocessors", [[], BOTH])
def test_the_key_of_a_bare_network_holds_nothing_of_preprocessors(plan_of: MakePlan, preprocessors: list[str]) -> None:
    """As it was before there were any, so that networks finished then are not deployed again."""
    bare = [job for job in networks(plan_of(preprocessors=preprocessors)).values() if job.preprocessor is None]
    assert len(bare) == 2
    for job in bare:
        held = {
            "job": ["network", JOB_VERSIONS["deploy"]],
            "checkpoint": job.checkpoint.key,
            "quantizer": {name: value for name, value in job.quantizer.identity().items() if name != "bits"},
            "bits": str(job.bits),
            "calibration": None,
        }
        assert job.network_key == key_of(held)


def test_each_target_is_measured_behind_each_preprocessor(plan_of: MakePlan) -> None:
    plan = plan_of(preprocessors=["none", "window", {"name": "depth", "depth": 2}])
    names = [f"resnet20 qat {network}" for network in ("fp@32", "qat@4")]
    after = ("", " after window", " after depth")
    assert set(networks(plan)) == {name + text for name in names for text in after}
    assert sum(job.kind == "train" for job in plan.jobs) == 1, "nothing is trained for a preprocessor"
    assert {_named(cell.target) for cell in plan.cells if cell.control} == {
        "32", "4", "32+window", "4+window", "32+depth", "4+depth",
    }  # fmt: skip


def test_the_target_itself_is_attacked_through_its_preprocessor_and_other_sources_are_bare(plan_of: MakePlan) -> None:
    found = crafted(plan_of(preprocessors=BOTH, transfer={"sources": ["same", "all", 32]}))
    assert found == {
        (source, target + after) for source in ("32", "4") for target in ("32", "4") for after in ("", "+window")
    } | {("32+window", "32+window"), ("4+window", "4+window")}


def test_an_ensemble_is_of_bare_networks(plan_of: MakePlan) -> None:
    attacks = [{"name": "lavan", "size": 4}, {"name": "ensemble", "size": 4}]
    found = crafted(plan_of(preprocessors=["window"], attacks=attacks, transfer={"sources": ["ensemble"]}))
    assert found == {("32 4", "32+window"), ("32 4", "4+window")}


def test_a_transferred_patch_is_crafted_once_for_all_preprocessors(plan_of: MakePlan) -> None:
    plan = plan_of(preprocessors=["none", "window", "jitter"], transfer={"sources": [32]})
    patches = [job for job in plan.jobs if isinstance(job, CraftJob) and job.sources]
    assert len(patches) == 1
    assert len([cell for cell in plan.cells if cell.patch == patches[0]]) == 2 * 3


def test_lineage_tells_a_network_from_itself_behind_a_preprocessor(plan_of: MakePlan) -> None:
    plan = plan_of(preprocessors=BOTH, transfer={"sources": ["same", "all"]})
    found = {
        (_named(cell.patch.sources[0]), _named(cell.target)): cell.lineage for cell in plan.cells if not cell.control
    }
    assert found["4", "4"] == found["4+window", "4+window"] == "same-network"
    assert found["4", "4+window"] == found["32", "4+window"] == found["32", "32+window"] == "shared-weights"


def test_lineage_across_trainings_ignores_the_preprocessor(plan_of: MakePlan) -> None:
    sections: dict[str, Any] = {
        "models": ["resnet20", "vgg16"],
        "defenses": ["none", "qat"],
        "finetuning": {"epochs": 1},
        "transfer": {"sources": [32], "architectures": "all", "defenses": "all"},
        "exclude": [{"defense": "none", "quantizer": "qat"}],
    }
    lineage = [
        [cell.lineage for cell in plan_of(**sections, preprocessors=[name]).cells] for name in ("none", "window")
    ]
    own, other = ([kind.replace("same-network", "shared-weights") for kind in kinds] for kinds in lineage)
    assert own == other
    assert {"fine-tuned", "independent", "shared-weights"} <= set(own)


def test_siblings_stand_behind_the_same_preprocessor(plan_of: MakePlan) -> None:
    attack = {"name": "autopatch", "size": 4}
    plan = plan_of(preprocessors=BOTH, attacks=[attack], transfer={"sources": ["same"]})
    found = {
        (_named(job.sources[0]), *map(_named, job.siblings))
        for job in plan.jobs
        if isinstance(job, CraftJob) and job.sources
    }
    assert found == {("32", "4"), ("4", "32"), ("32+window", "4+window"), ("4+window", "32+window")}


def test_the_float_path_keeps_the_preprocessor(plan_of: MakePlan) -> None:
    found = networks(plan_of(preprocessors=BOTH))
    behind = float_deployment(found["resnet20 qat qat@4 after window"])
    assert behind is not None
    assert behind.key == found["resnet20 qat fp@32 after window"].key
    assert found["resnet20 qat qat@4 after window"].bare.key == found["resnet20 qat qat@4"].key


def test_pool_patches_meet_every_preprocessor(plan_of: MakePlan) -> None:
    pool = {"seen": [{"name": "gap", "size": 5}]}
    plan = plan_of(preprocessors=BOTH, pool=pool, transfer={"sources": ["same"]})
    assert {_named(cell.target) for cell in plan.cells if cell.seen} == {"32", "4", "32+window", "4+window"}


@pytest.mark.parametrize("preprocessors", [BOTH, ["window"]])
def test_analyses_are_of_bare_networks(plan_of: MakePlan, preprocessors: list[str]) -> None:
    sections = {"defenses": ["qat", "any_precision"], "analysis": {"costs": "qat", "similarity": True}}
    plain, shaded = plan_of(**sections), plan_of(**sections, preprocessors=preprocessors)
    assert [job.key for job in plain.analyses] == [job.key for job in shaded.analyses]
    assert len(plain.analyses) > 1


@pytest.mark.parametrize(
    ("filters", "targets"),
    [
        ({"exclude": [{"preprocessor": "window", "target_bits": 4}]}, {"32", "4", "32+window"}),
        ({"exclude": [{"preprocessor": "none"}]}, {"32+window", "4+window"}),
        ({"include": [{"preprocessor": ["window"]}, {"target_bits": 4}]}, {"4", "32+window", "4+window"}),
    ],
)
def test_filters(plan_of: MakePlan, filters: dict[str, Any], targets: set[str]) -> None:
    plan = plan_of(preprocessors=BOTH, transfer={"sources": ["same"]}, **filters)
    assert {_named(cell.target) for cell in plan.cells} == targets


def test_a_filter_may_name_attack_and_preprocessor(plan_of: MakePlan) -> None:
    attacks = [{"name": "lavan", "size": 4}, {"name": "gap", "size": 4}]
    exclude = [{"preprocessor": "window", "attack": "gap"}]
    plan = plan_of(preprocessors=BOTH, attacks=attacks, exclude=exclude, transfer={"sources": ["same"]})
    found = {(cell.patch.attack.title, cell.target.preprocessor_title) for cell in plan.cells if not cell.control}
    assert found == {("lavan", "none"), ("gap", "none"), ("lavan", "window")}


CHANGES: list[tuple[str, dict[str, Any], bool]] = [
    ("another", {"preprocessors": ["blindfold"]}, True),
    ("a field", {"preprocessors": [{"name": "depth", "depth": 4}]}, True),
    ("a default that is spelt out", {"preprocessors": [{"name": "depth", "depth": 3}]}, False),
    ("a label", {"preprocessors": [{"name": "depth", "label": "coarse"}]}, False),
    ("one more", {"preprocessors": ["depth", "jitter"]}, False),
]


@pytest.mark.parametrize(("change", "changes"), [pytest.param(c, e, id=what) for what, c, e in CHANGES])
def test_what_changes_the_keys_of_preprocessed_networks(
    plan_of: MakePlan, change: dict[str, Any], changes: bool
) -> None:
    before = {job.key for job in networks(plan_of(preprocessors=["depth"])).values() if job.preprocessor}
    after = {job.key for job in networks(plan_of(**change)).values() if job.preprocessor}
    assert (not before & after) is changes
    assert (before <= after) is not changes


@pytest.mark.parametrize(("name", "changes"), [("centred", True), ("depth", False)])
def test_calibration_images_count_where_a_preprocessor_learns(plan_of: MakePlan, name: str, changes: bool) -> None:
    quantizers = [{"name": "fp", "bits": [32]}]
    sections: dict[str, Any] = {"defenses": ["none"], "quantizers": quantizers, "preprocessors": [name]}
    found = [
        {job.key for job in networks(plan_of(**sections, data=data)).values()}
        for data in ({}, {"calibration": "other"})
    ]
    assert len(found[0]) == 2
    assert len(found[0] - found[1]) == int(changes)


def test_records_say_what_stood_before_source_and_target(plan_of: MakePlan) -> None:
    plan = plan_of(preprocessors=BOTH, transfer={"sources": ["same", 32]})
    records = {cell: record_of(cell, plan.suite, "fake") for cell in plan.cells if isinstance(cell, EvaluateJob)}
    found = {
        (r.source_preprocessor, r.source_bits, r.preprocessor, r.target_bits, r.lineage)
        for cell, r in records.items()
        if not cell.control
    }
    assert ("window", "4", "window", "4", "same-network") in found
    assert ("none", "32", "window", "32", "shared-weights") in found
    assert ("window", "32", "window", "32", "same-network") in found
    assert ("none", "4", "none", "4", "same-network") in found
    assert {r.source_preprocessor for cell, r in records.items() if cell.control} == {"none"}


def test_ensembles_that_answer_together_stand_behind_one_preprocessor(plan_of: MakePlan) -> None:
    quantizers = [{"name": "qat", "bits": [32, 4, 2]}]
    plan = plan_of(defenses=["empir"], quantizers=quantizers, preprocessors=["window"], transfer={"sources": ["same"]})
    network = networks(plan)["resnet20 empir qat@4 after window"]
    assert network.partners
    assert all(partner.preprocessor is None for partner in network.partners)
    assert network.bare.network_key != network.network_key


NAMES = {*BUILT_INS, *CATALOGUES["preprocessors"]}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"preprocessors": ["windw"]},
     "preprocessors[0]: unknown preprocessor 'windw'. Did you mean: window? "
     f"Available: {', '.join(sorted(NAMES))}."),
    ({"preprocessors": ["none", "window", "window"]},
     "preprocessors[2]: expected distinct entries, found 'window' twice; tell them apart with label"),
    ({"preprocessors": ["none", "none"]},
     "preprocessors[1]: expected distinct entries, found 'none' twice; tell them apart with label"),
    ({"preprocessors": "window"}, "preprocessors: expected a list of preprocessors, found 'window'"),
    ({"preprocessors": [4]},
     "preprocessors[0]: expected the name of a preprocessor, or a mapping with name and fields, found 4"),
    ({"preprocessors": [{"depth": 2}]},
     "preprocessors[0]: expected a mapping with the name of a preprocessor, found no name"),
    ({"preprocessors": [{"name": "depth", "dept": 2}]},
     "preprocessors[0].dept: unknown key 'dept'. Did you mean: depth? Available: depth, label, name."),
    ({"preprocessors": [{"name": "depth", "depth": 9}]},
     "preprocessors[0].depth: expected a number of at most 8, found 9"),
    ({"preprocessors": BOTH, "exclude": [{"preprocessor": "jitter"}]},
     "exclude[0].preprocessor: no preprocessor 'jitter' in this suite; it has none, window"),
    ({"exclude": [{"preprocessor": "window"}]},
     "exclude[0].preprocessor: no preprocessor 'window' in this suite; it has none"),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "message"), MISTAKES)
def test_mistakes_are_told(make_suite: MakeSuite, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        make_suite(**sections)
    (problem,) = caught.value.problems
    assert problem.endswith(f": {message}"), problem


def test_the_json_schema_knows_them() -> None:
    schema = suite_schema()
    field = schema["properties"]["preprocessors"]
    assert field["type"] == "array"
    assert "minItems" not in field, "none at all is the default"
    assert set(field["items"]["anyOf"][0]["enum"]) == NAMES
    assert {"$ref": "#/$defs/Depth"} in field["items"]["anyOf"]
    assert schema["properties"]["attacks"]["minItems"] == 1
    assert "preprocessor" in schema["$defs"]["Filter"]["properties"]


def test_bits_without_a_float_path_have_no_sibling_behind_a_preprocessor_either(plan_of: MakePlan) -> None:
    plan = plan_of(defenses=[{"name": "qat", "joint": False}], preprocessors=["window"])
    low = [job for job in plan.jobs if isinstance(job, DeployJob) and job.bits != FLOAT and job.preprocessor]
    assert low
    assert [float_deployment(job) for job in low] == [None] * len(low)
