"""Maps as jobs: of which backbones, under which patch, and what they depend on."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.jobs.base import Sizes
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.plan.plan import Plan
from tests.suite.conftest import MakePlan, MakeSuite

QAT = {"name": "qat", "bits": [32, 8, 4]}
SECTIONS: dict[str, Any] = {"defenses": ["qat"], "quantizers": [QAT], "analysis": {"maps": 4, "images": 32}}


def maps_jobs(plan: Plan) -> list[MapsJob]:
    return [job for job in plan.analyses if isinstance(job, MapsJob)]


def only(plan: Plan) -> MapsJob:
    (job,) = maps_jobs(plan)
    return job


def test_one_job_per_backbone(plan_of: MakePlan) -> None:
    jobs = maps_jobs(plan_of(**{**SECTIONS, "models": ["resnet20", "vgg16"], "seeds": [0, 1]}))
    found = {(job.networks[0].checkpoint.model.title, job.networks[0].checkpoint.seed) for job in jobs}
    assert found == {("resnet20", 0), ("resnet20", 1), ("vgg16", 0), ("vgg16", 1)}
    assert len(jobs) == 4
    assert (jobs[0].images, jobs[0].drawn) == (32, 4)
    assert jobs[0].title == "maps of resnet20 qat [32 8 4], seed 0"


def test_the_float_network_is_always_there(plan_of: MakePlan) -> None:
    job = only(plan_of(**{**SECTIONS, "defenses": ["none"], "quantizers": [{"name": "ptq", "bits": [8, 4]}]}))
    assert [str(network.bits) for network in job.networks] == ["32", "8", "4"]
    assert {network.checkpoint.key for network in job.networks} == {job.networks[0].checkpoint.key}


def test_ensembles_and_random_networks_are_left_out(plan_of: MakePlan) -> None:
    quantizers = [QAT, {"name": "random_precision", "bits": [8]}]
    exclude = [{"defense": "empir", "quantizer": "random_precision"}]
    job = only(plan_of(**{**SECTIONS, "defenses": ["qat", "empir"], "quantizers": quantizers, "exclude": exclude}))
    assert {network.quantizer.name for network in job.networks} == {"fp", "qat"}
    assert job.networks[0].checkpoint.defense.name == "qat"


def test_the_first_patch_of_the_pool_comes_first(plan_of: MakePlan) -> None:
    pool = {"seen": [{"name": "lavan", "size": 3}, {"name": "gap", "size": 6}]}
    job = only(plan_of(**SECTIONS, pool=pool))
    assert job.patch is not None
    assert (job.patch.attack.name, job.patch.side) == ("lavan", 3)
    assert job.upstream == (*job.networks, job.patch)


def test_without_a_pool_it_is_the_first_universal_patch_of_the_backbone_itself(plan_of: MakePlan) -> None:
    attacks = [
        {"name": "pgd"},
        {"name": "patch_apgd", "size": 4},
        {"name": "gap", "size": 5},
        {"name": "lavan", "size": 4},
    ]
    jobs = maps_jobs(plan_of(**{**SECTIONS, "defenses": ["qat", "any_precision"]}, attacks=attacks))
    assert jobs, "no job was planned"
    for job in jobs:
        assert job.patch is not None
        assert (job.patch.attack.name, job.patch.side) == ("gap", 5)
        source = job.patch.source
        assert source is not None
        assert source.network_key == job.networks[0].network_key
        assert source.bits.is_float


def test_without_either_the_images_are_clean(plan_of: MakePlan) -> None:
    jobs = [
        only(plan_of(**SECTIONS, attacks=[{"name": "patch_apgd", "size": 4}])),
        only(plan_of(**SECTIONS, transfer={"sources": [4]})),
    ]
    assert [job.patch for job in jobs] == [None, None]


def test_keys_depend_on_what_is_looked_at(plan_of: MakePlan) -> None:
    def key(**changes: object) -> str:
        return only(plan_of(**{**SECTIONS, **changes})).key

    first = key()
    assert key(sweep={"shifts": [[1, 1]]}) == first
    others = [
        key(analysis={"maps": 5, "images": 32}),
        key(analysis={"maps": 4, "images": 33}),
        key(attacks=[{"name": "lavan", "size": 5}]),
        key(training={"epochs": 3}),
        key(quantizers=[{"name": "qat", "bits": [32, 8]}]),
        key(data={"evaluation": "others"}),
    ]
    assert len({first, *others}) == 7


def test_cost_grows_with_networks_and_contents(plan_of: MakePlan) -> None:
    sizes = Sizes(train=1000, calibration=10, craft=10, evaluation=20)
    patched = only(plan_of(**SECTIONS))
    clean = only(plan_of(**SECTIONS, attacks=[{"name": "patch_apgd", "size": 4}]))
    assert patched.cost(sizes) == 20 * (80 + 3 * (9 + 6))
    assert clean.cost(sizes) == 20 * (80 + 3 * (6 + 3))


def test_more_pictures_than_images_are_refused(make_suite: MakeSuite) -> None:
    with pytest.raises(SuiteError, match=r"analysis\.maps: expected at most as many as analysis\.images, 8, found 9"):
        make_suite(**{**SECTIONS, "analysis": {"maps": 9, "images": 8}})


def test_widths_need_costs(make_suite: MakeSuite) -> None:
    with pytest.raises(SuiteError, match=r"analysis\.fewer_bits: expected costs beside it.* for example costs: qat"):
        make_suite(**{**SECTIONS, "analysis": {"fewer_bits": True}})


def test_a_missing_library_is_an_error_before_any_work(make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "captum" else found(name))
    with pytest.raises(SuiteError, match=r"analysis\.maps: Grad-CAM needs the library captum.*pip install captum"):
        make_suite(**SECTIONS)
    assert make_suite(**{**SECTIONS, "analysis": {}}).analysis.maps == 0
