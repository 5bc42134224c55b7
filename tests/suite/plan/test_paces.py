"""How long a plan takes: paces of finished jobs, of measured passes, and what is not known."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.plan.calibration import measured
from qpatchbench.suite.plan.paces import (
    COMPILING,
    FILE,
    MEASURED,
    Load,
    Paces,
    load_of,
    place_of,
    read_paces,
    remember,
    remember_jobs,
)
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.plan.sizes import estimated_sizes
from qpatchbench.suite.plan.time_needed import time_needed
from qpatchbench.suite.store.store import Artifact, Store
from tests.suite.conftest import MakePlan, MakeSuite

HERE = "a processor, 2 threads"
RAN_ON = {"processor": "a processor", "threads": "2", "device": "cpu"}


def finish(job: Job, store: Store, seconds: float) -> None:
    store.write(job.kind, job.key, Artifact({}, {"made": {"seconds": seconds, "ran_on": RAN_ON}}))


def loads(plan: Plan) -> set[Load]:
    return {load_of(job) for job in plan.jobs}


def test_a_place_is_a_device_and_on_a_cpu_its_threads() -> None:
    assert place_of(RAN_ON) == HERE
    assert place_of({**RAN_ON, "threads": "1"}) == "a processor, 1 thread"
    assert place_of({**RAN_ON, "device": "NVIDIA H200"}) == "NVIDIA H200"


def test_every_job_has_a_load(plan_of: MakePlan) -> None:
    plan = plan_of(
        attacks=[{"name": "lavan", "size": 4}],
        defenses=["qat", "any_precision"],
        analysis={"costs": "qat", "similarity": True, "maps": 2},
        evaluation={"images": 32, "checks": "full"},
        dataset={"name": "fake", "image_size": 32},
    )
    kinds = {job.kind for job in plan.jobs if load_of(job).model == "resnet20"}
    assert kinds == {"train", "deploy", "craft", "evaluate", "audit", "cost", "similarity", "maps"}
    assert {Load("deploy", "resnet20", False), Load("deploy", "resnet20", True)} <= loads(plan)
    assert {load_of(job) for job in plan.jobs if job.kind == "craft" and not job.upstream} == {Load("craft", "", False)}


def test_finished_jobs_tell_the_pace_of_those_like_them(tmp_path: Path, plan_of: MakePlan) -> None:
    plan, store = plan_of(), Store(tmp_path)
    sizes = estimated_sizes(plan)
    cells = [job for job in plan.jobs if load_of(job) == Load("evaluate", "resnet20", True)]
    assert len(cells) > 2
    finish(cells[0], store, 3.0)
    finish(cells[1], store, 5.0)
    remember_jobs(tmp_path, cells[:2], store, sizes)
    paces = read_paces(tmp_path, HERE)
    assert paces.of(load_of(cells[0])) == pytest.approx(8.0 / (cells[0].cost(sizes) + cells[1].cost(sizes)))
    found = time_needed(plan, store, sizes, paces)
    by_key = {each.job.key: each for each in found.jobs}
    assert by_key[cells[0].key].done
    assert by_key[cells[2].key].seconds == pytest.approx(4.0)
    assert found.seconds == pytest.approx(4.0 * (len(cells) - 2))
    assert found.unknown == sum(
        job.cost(sizes) for job in plan.jobs if load_of(job) != load_of(cells[0]) and job.cost(sizes)
    )
    assert read_paces(tmp_path, "another place").known == {}
    assert found.longest(1)[0].seconds == pytest.approx(4.0)


def test_measured_passes_stand_in_for_jobs() -> None:
    whole = Load(MEASURED, "net", False)
    quantized = whole._replace(quantized=True)
    paces = Paces({str(whole): 1.0})
    assert paces.of(Load("train", "net", True)) == 1.0
    paces.known[str(quantized)] = 2.0
    assert paces.of(Load("train", "net", True)) == 2.0
    paces.known[str(Load("train", "net", True))] = 3.0
    assert paces.of(Load("train", "net", True)) == 3.0
    assert paces.of(Load("train", "other", True)) is None


def test_passes_in_bfloat16_are_paced_apart(plan_of: MakePlan) -> None:
    attacks = [{"name": "lavan", "size": 4, "precision": "bf16-mixed"}, {"name": "gap", "size": 4}]
    plan = plan_of(training={"precision": "bf16-mixed"}, finetuning={}, attacks=attacks)
    halves = {load_of(job) for job in plan.jobs if load_of(job).half}
    assert {(load.kind, load.quantized) for load in halves} == {("train", False), ("craft", False), ("craft", True)}
    assert {str(load) for load in halves} >= {"train / resnet20 / float / bf16-mixed"}
    whole = Load(MEASURED, "net", False)
    paces = Paces({str(whole): 4.0, str(Load("train", "net", False)): 5.0})
    assert paces.of(Load("train", "net", True, half=True)) == 4.0  # of jobs in float32 nothing follows
    assert not list(paces.gains("net", False))
    paces.known[str(whole._replace(half=True))] = 1.0
    assert paces.of(Load("train", "net", True, half=True)) == 1.0
    assert paces.of(Load("train", "net", False)) == 5.0
    assert list(paces.gains("net", False)) == [("precision: bf16-mixed", 0.25, 0)]
    assert not list(paces.gains("net", True))


def test_passes_of_compiled_networks_are_paced_apart(plan_of: MakePlan) -> None:
    attacks = [{"name": "lavan", "size": 4, "compile": True}, {"name": "gap", "size": 4}]
    plan = plan_of(training={"compile": True}, finetuning={}, attacks=attacks)
    fused = {load_of(job) for job in plan.jobs if load_of(job).fused}
    assert {(load.kind, load.quantized) for load in fused} == {("train", False), ("craft", False), ("craft", True)}
    assert {str(load) for load in fused} >= {"train / resnet20 / float / compiled"}
    whole = Load(MEASURED, "net", False)
    both = whole._replace(half=True, fused=True)
    paces = Paces({str(whole): 4.0, str(whole._replace(half=True)): 2.0})
    assert paces.of(Load("train", "net", True, half=True, fused=True)) == 2.0
    paces.known |= {str(both): 1.0, str(both._replace(kind=COMPILING)): 30.0}
    assert paces.of(Load("train", "net", True, half=True, fused=True)) == 1.0
    assert paces.of(Load("train", "net", True, half=True)) == 2.0
    told = [("precision: bf16-mixed", 0.5, 0), ("precision: bf16-mixed, compile: true", 0.25, 30)]
    assert list(paces.gains("net", False)) == told


def test_nothing_is_told_where_nothing_is_known(tmp_path: Path, plan_of: MakePlan) -> None:
    plan = plan_of()
    sizes = estimated_sizes(plan)
    found = time_needed(plan, Store(tmp_path), sizes, Paces())
    assert found.seconds is None
    assert found.unknown == found.passes == sum(job.cost(sizes) for job in plan.jobs) > 0
    assert isinstance(sizes, Sizes)


@pytest.mark.parametrize("text", ["", "[]", '{"here": 3}', '{"here": {"train / net / float": "fast"}}', "\0"])
def test_a_file_that_is_not_ours_is_nothing_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_paces(tmp_path, "here").known == {}
    remember(tmp_path, "there", {Load("train", "net", False): 0.5})
    assert read_paces(tmp_path, "there").known == {"train / net / float": 0.5}
    assert json.loads((tmp_path / FILE).read_text())


def test_passes_are_measured_of_every_model(make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpatchbench.suite.plan.calibration.SECONDS", 0.0)
    monkeypatch.setattr("qpatchbench.suite.plan.calibration._PIXELS", 4 * 32 * 32)
    suite = make_suite()
    told: list[str] = []
    found = measured(suite, torch.device("cpu"), told.append)
    assert told == ["resnet20, float", "resnet20, fake quantizers"]
    ways = (False, True)
    assert set(found) == {Load(MEASURED, "resnet20", quantized, half) for quantized in ways for half in ways}
    assert all(0 < pace < 10 for pace in found.values())


def test_compiled_networks_are_measured_where_that_is_asked_for(
    make_suite: MakeSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qpatchbench.suite.plan.calibration.SECONDS", 0.0)
    monkeypatch.setattr("qpatchbench.suite.plan.calibration._PIXELS", 4 * 32 * 32)
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: compiler(network, backend="eager", dynamic=dynamic))
    found = measured(make_suite(), torch.device("cpu"), lambda title: None, fused=True)
    ways = list(product((False, True), repeat=3))
    expected = {Load(MEASURED, "resnet20", *way) for way in ways}
    assert set(found) == expected | {Load(COMPILING, "resnet20", *way) for way in ways if way[2]}
    for way in ways:
        if way[2]:
            load = Load(COMPILING, "resnet20", *way)
            assert found[load] > found[load._replace(kind=MEASURED)], "a step and more, not a pass"
