"""What jobs take: in which directions it grows, what experience adds, and where it does not fit."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qpatchbench.data.cache import write_sealed
from qpatchbench.preprocessors.base import DRAWS
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.needs import plan_needs as needs_module
from qpatchbench.suite.needs.experience import DISK, FILE, Experience, read_experience, remember_needs
from qpatchbench.suite.needs.job_estimates import Estimates, estimates_of
from qpatchbench.suite.needs.observed_peak import observed_peak
from qpatchbench.suite.needs.plan_needs import PlanNeeds, plan_needs
from qpatchbench.suite.needs.room import available_memory, free_bytes, on_one_disk
from qpatchbench.suite.plan.paces import load_of
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.plan.sizes import estimated_sizes
from qpatchbench.suite.store.store import Artifact, Store
from tests.suite.conftest import MakePlan

CPU = torch.device("cpu")
RAN_ON = {"processor": "a processor", "threads": "2", "device": "cpu"}
HERE = "a processor, 2 threads"


def estimates(plan: Plan, cache: Path) -> Estimates:
    return estimates_of(plan, estimated_sizes(plan), cache, CPU)


def of_kind(plan: Plan, kind: str) -> Job:
    return max((job for job in plan.jobs if job.kind == kind), key=lambda job: job.cost(estimated_sizes(plan)))


def test_every_kind_of_job_has_both(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of(
        attacks=[{"name": "lavan", "size": 4}, {"name": "sparse_rs", "size": 3, "queries": 3, "targets": "untargeted"}],
        defenses=["qat", "any_precision"],
        analysis={"costs": "qat", "similarity": True, "maps": 2},
        evaluation={"images": 32, "checks": "full"},
        dataset={"name": "fake", "image_size": 32},
    )
    found = estimates(plan, tmp_path)
    sizes = {job.kind: (found.disk(job), found.memory(job)) for job in plan.jobs}
    assert set(sizes) == {"train", "deploy", "craft", "evaluate", "audit", "cost", "similarity", "maps"}
    assert all(disk and memory and memory > 400e6 for disk, memory in sizes.values()), sizes


def test_memory_grows_by_one_batch_for_each_width_that_a_step_holds(plan_of: MakePlan, tmp_path: Path) -> None:
    def of_training(batch_size: int, **changes: object) -> float:
        plan = plan_of(training={"batch_size": batch_size}, **changes)
        return estimates(plan, tmp_path).memory(of_kind(plan, "train")) or 0.0

    three = [{"name": "qat", "bits": [32, 4, 2]}]
    grows = of_training(128) - of_training(64)
    assert of_training(192) - of_training(128) == pytest.approx(grows)
    more = of_training(128, quantizers=three) - of_training(64, quantizers=three)
    assert more == pytest.approx(1.5 * grows, rel=0.05)
    one = [{"name": "dwq", "steps": 1}]
    alone = of_training(128, quantizers=three, defenses=one) - of_training(64, quantizers=three, defenses=one)
    assert alone == pytest.approx(0.5 * grows, rel=0.1)


def test_memory_of_calibration_is_counted_where_it_is_the_most(plan_of: MakePlan, tmp_path: Path) -> None:
    def of_deploying(**fields: object) -> float:
        plan = plan_of(
            defenses=["none"],
            quantizers=[{"name": "ptq", "bits": [32, 4], **fields}],
            dataset={"name": "fake", "image_size": 32, "calibration_images": 2000},
            evaluation={"images": 4},
        )
        found = estimates(plan, tmp_path)
        return max(found.memory(job) or 0.0 for job in plan.jobs if job.kind == "deploy")

    plain = of_deploying()
    assert of_deploying(batch_size=128) > plain + 1e6
    # Two copies of 64 images pass, or of as many as there are; where nothing is fitted none does.
    fitted = of_deploying(bias_correction=True)
    assert fitted == pytest.approx(of_deploying(batch_size=128))
    all_of_them = of_deploying(bias_correction=True, fitting_images=5000)
    assert all_of_them == of_deploying(bias_correction=True, fitting_images=2000)
    assert all_of_them - fitted == pytest.approx((4000 - 128) / 64 * (fitted - plain), rel=0.01)
    assert of_deploying(fitting_images=5000) == plain


def test_an_attack_holds_the_graphs_of_all_that_answers_together(plan_of: MakePlan, tmp_path: Path) -> None:
    def of_sources(batch_size: int) -> dict[tuple[str, str], float]:
        plan = plan_of(
            attacks=[{"name": "gap", "size": 4, "targets": "untargeted", "batch_size": batch_size}],
            defenses=["dwq"],
            quantizers=[{"name": "qat", "bits": [8, 4, 2]}, {"name": "random_precision", "bits": [8]}],
            preprocessors=["none", "bit_depth", {"name": "patchcleanser", "size": 4, "masks": 3}, "diffpure"],
            transfer={"sources": ["same"]},
            dataset={"name": "fake", "image_size": 32},
        )
        found = estimates(plan, tmp_path)
        sources = [(job, job.source) for job in plan.jobs if isinstance(job, CraftJob) and job.source]
        return {(at.preprocessor_title, at.quantizer.mode): found.memory(job) or 0.0 for job, at in sources}

    few, many = of_sources(64), of_sources(128)
    graphs = {at: (many[at] - few[at]) / (many["none", "qat"] - few["none", "qat"]) for at in few}
    expected = {"none": 1, "bit_depth": 1, "patchcleanser": 9, "diffpure": DRAWS}
    assert graphs == pytest.approx(
        {
            (name, mode): count * each
            for name, count in expected.items()
            for mode, each in (("qat", 1), ("random_precision", 3))
        },
        rel=0.05,
    )


def test_training_images_that_nobody_trains_on_are_not_held(plan_of: MakePlan, tmp_path: Path) -> None:
    def of_cells(**changes: object) -> float:
        plan = plan_of(dataset={"name": "fake", "image_size": 32, **changes})
        bare = replace(plan, jobs=tuple(job for job in plan.jobs if job.kind != "train"))
        return estimates(bare, tmp_path).memory(of_kind(bare, "evaluate")) or 0.0

    assert of_cells(train_images=40_000) - of_cells() == pytest.approx(2 * 3 * 32**2 * 40_000)


def test_the_artifact_of_a_cell_is_its_arrays(plan_of: MakePlan, tmp_path: Path) -> None:
    small, large = (plan_of(evaluation={"images": images}) for images in (1000, 5000))
    few, more = (estimates(plan, tmp_path).disk(of_kind(plan, "evaluate")) for plan in (small, large))
    assert few is not None
    assert more is not None
    assert more - few == 4000 * (
        4 + 10 * (4 + 2 + 2)
    )  # clean predictions int32; ten goals: predictions int32, rows and columns int16


def test_estimates_are_multiplied_by_what_jobs_took(plan_of: MakePlan, tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    before, job = estimates(plan, tmp_path), of_kind(plan, "craft")
    disk, memory = before.disk(job), before.memory(job)
    assert disk is not None
    assert memory is not None
    made = {"seconds": 1.0, "ran_on": RAN_ON, "peak_bytes": 2 * memory}
    store.write(job.kind, job.key, Artifact({"key": np.zeros(int(3 * disk), np.uint8)}, {"made": made}))
    remember_needs(tmp_path, [job], store, before.around)
    after = replace(before, experience=read_experience(tmp_path), place=HERE)
    assert after.memory(job) == pytest.approx(2 * memory)
    assert after.disk(job) == pytest.approx(store.size(job.kind, job.key))
    assert replace(after, place="another").memory(job) == pytest.approx(memory)
    (tmp_path / FILE).write_text("{}")
    assert read_experience(tmp_path) == Experience()


def test_what_does_not_fit_is_told_with_the_way_out(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = plan_of(training={"batch_size": 1024}), Store(tmp_path / "cache")

    def needs() -> PlanNeeds:
        return plan_needs(plan, store, estimates(plan, tmp_path), CPU, tmp_path / "out", read=False)

    found = needs()
    assert [*found.shortages()] == []
    assert found.unknown == 0
    assert found.stored > sum(each.disk or 0 for each in found.jobs)
    assert found.largest is not None
    assert found.largest.job.kind == "train"
    monkeypatch.setattr(needs_module, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(needs_module, "available_bytes", lambda device: 300_000_000)
    disk, memory = needs().shortages()
    assert disk.startswith(f"{tmp_path / 'cache'}: expected room for about ")
    assert disk.endswith(" of results, found 1.0 kB free; free space, or choose another disk with QPATCHBENCH_CACHE")
    assert memory.startswith(f"{found.largest.job.title}: expected about ")
    assert memory.endswith("at its peak, found 300.0 MB available; a smaller training.batch_size takes less")
    monkeypatch.setattr(needs_module, "on_one_disk", lambda first, second: False)
    assert [line.rpartition(" ")[2] for line in needs().shortages()][:2] == ["QPATCHBENCH_CACHE", "--output"]


def test_finished_jobs_take_nothing_more(plan_of: MakePlan, tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path / "cache")
    for job in plan.jobs:
        store.write(job.kind, job.key, Artifact({}, {}))
    found = plan_needs(plan, store, estimates(plan, tmp_path), CPU, tmp_path / "out", read=True)
    assert (found.jobs, found.stored, found.results, found.largest) == ((), 0, 0, None)


def test_experience_belongs_to_a_place_and_a_kind_of_job(plan_of: MakePlan, tmp_path: Path) -> None:
    plan = plan_of()
    job = of_kind(plan, "train")
    write_sealed(tmp_path / FILE, {DISK: {str(load_of(job)): 2.0}})
    assert estimates(plan, tmp_path).experience.ratio(DISK, job) == 2.0
    assert estimates(plan, tmp_path).experience.ratio("elsewhere", job) is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="another system than Linux counts otherwise")
def test_the_peak_of_a_job_is_that_of_what_it_held() -> None:
    with observed_peak(CPU) as before:
        pass
    # From the system itself: an allocator may have something left from before.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with observed_peak(CPU) as peak, mmap.mmap(-1, 200_000_000, flags=private) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    with observed_peak(CPU) as after:
        pass
    assert before.bytes is not None
    assert peak.bytes is not None
    assert after.bytes is not None
    assert peak.bytes - before.bytes == pytest.approx(200_000_000, rel=0.1)
    assert after.bytes < before.bytes + 50_000_000


def test_room_is_told_of_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.1)
    assert on_one_disk(tmp_path, tmp_path / "a")
    assert not on_one_disk(tmp_path, Path("/proc"))
    available = available_memory()
    assert available is None or available > 0
