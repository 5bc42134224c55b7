"""The serial executor, with a worker that computes nothing: order, failures, damage and refusing disks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from qpatchbench.errors import ArtifactError, AttackError, StorageError
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.types import Progress
from tests.suite.conftest import MakePlan


class Worker:
    """Reads what a job needs from the store, as the real one does, and notes what it was asked for."""

    device = torch.device("cpu")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.facts: dict[str, object] = {}

    def work(self, job: Job, progress: Progress) -> Artifact:
        self.asked.append(job.title)
        for earlier in job.upstream:
            self.store.read(earlier.kind, earlier.key)
        progress(0.5, {"loss": 1.0})
        if job.title in self.failing:
            raise self.failing[job.title]
        return Artifact({"key": np.frombuffer(job.key.encode(), np.uint8)}, {"label": job.title, **self.facts})


class Display:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.reasons: list[str] = []

    def started(self, job: Job) -> None:
        self.events.append(("started", job.title))

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        assert 0 <= fraction <= 1

    def finished(self, job: Job, seconds: float) -> None:
        self.events.append(("finished", job.title))

    def failed(self, job: Job, reason: str) -> None:
        self.events.append(("failed", job.title))
        self.reasons.append(reason)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def plan(plan_of: MakePlan) -> Plan:
    """Two models, each: 1 checkpoint, 2 networks, 2 patches, 4 cells and 4 cells of the controls."""
    return plan_of(models=["resnet20", "vgg16"], transfer={"sources": ["all"]})


@pytest.fixture
def execution(plan: Plan, tmp_path: Path) -> Execution:
    store = Store(tmp_path / "cache")
    return Execution(plan, store, Worker(store), Display())


def again(execution: Execution) -> tuple[Execution, Worker, Display]:
    """A new process on the same store."""
    worker, display = Worker(execution.store), Display()
    return Execution(execution.plan, execution.store, worker, display), worker, display


def worker_of(execution: Execution) -> Worker:
    assert isinstance(execution.worker, Worker)
    return execution.worker


def display_of(execution: Execution) -> Display:
    assert isinstance(execution.display, Display)
    return execution.display


def job_of(plan: Plan, start: str) -> Job:
    return next(job for job in plan.jobs if job.title.startswith(start))


def damage(execution: Execution, job: Job) -> None:
    path = execution.store.root / job.kind / job.key[:2] / f"{job.key}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_every_job_runs_once_in_order_and_is_on_disk_before_the_next(execution: Execution) -> None:
    execution.run()
    labels = [job.title for job in execution.plan.jobs]
    assert len(labels) == 2 * 13 + 2  # both models share the two patches of the controls
    assert worker_of(execution).asked == labels
    assert display_of(execution).events == [
        event for text in labels for event in (("started", text), ("finished", text))
    ]
    assert execution.ran == [job.key for job in execution.plan.jobs]
    assert execution.errors == {}
    for job in execution.plan.jobs:
        stored = execution.store.read(job.kind, job.key)
        assert stored.facts["label"] == job.title
        assert stored.facts["made"]["seconds"] >= 0
        assert set(stored.facts["made"]) == {"seconds", "device", "git", "versions", "ran_on", "peak_bytes"}


def test_a_second_run_computes_nothing(execution: Execution) -> None:
    execution.run()
    second, worker, display = again(execution)
    second.run()
    assert (worker.asked, display.events, second.ran) == ([], [], [])


def test_an_interrupt_keeps_what_is_finished(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = worker_of(execution)
    work = worker.work

    def interrupted(job: Job, progress: Progress) -> Artifact:
        if len(worker.asked) == 5:
            raise KeyboardInterrupt
        return work(job, progress)

    monkeypatch.setattr(worker, "work", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execution.run()
    second, resumed, _ = again(execution)
    second.run()
    assert resumed.asked == [job.title for job in execution.plan.jobs[5:]]


def test_a_failure_stops_what_depends_on_it_and_nothing_else(execution: Execution) -> None:
    network = job_of(execution.plan, "deploy resnet20 qat qat@4")
    worker_of(execution).failing = {network.title: ValueError("no luck\nmore words")}
    execution.run()

    def depends(job: Job) -> bool:
        return job.key == network.key or any(depends(earlier) for earlier in job.upstream)

    expected = {job.key for job in execution.plan.jobs if depends(job)}
    # The network; its patch; its two cells as a target, one as a source of 32 bits, and two of the controls.
    assert len(expected) == 1 + 1 + 3 + 2
    assert set(execution.errors) == expected
    assert set(execution.ran) == {job.key for job in execution.plan.jobs} - expected
    assert display_of(execution).reasons == ["ValueError: no luck"]
    assert "Traceback" in execution.errors[network.key]
    for job in execution.plan.jobs:
        if job.key in expected - {network.key}:
            assert execution.errors[job.key].startswith("not started, because ")
            assert execution.errors[job.key].endswith("more words")
    assert worker_of(execution).asked == [
        job.title for job in execution.plan.jobs if job.key not in expected - {network.key}
    ]
    assert all(execution.artifact(job) is None for job in execution.plan.jobs if job.key in expected)


def test_an_error_of_ours_is_told_without_its_type(execution: Execution) -> None:
    patch = job_of(execution.plan, "craft lavan")
    worker_of(execution).failing = {patch.title: AttackError("the patch is not finite")}
    execution.run()
    assert display_of(execution).reasons == ["the patch is not finite"]


def test_an_error_without_words_is_told_by_its_type(execution: Execution) -> None:
    patch = job_of(execution.plan, "craft lavan")
    worker_of(execution).failing = {patch.title: AssertionError()}
    execution.run()
    assert display_of(execution).reasons == ["AssertionError: no message"]


def test_a_failed_job_is_tried_again_by_the_next_run(execution: Execution) -> None:
    patch = job_of(execution.plan, "craft lavan")
    worker_of(execution).failing = {patch.title: ValueError("no luck")}
    execution.run()
    missing = set(execution.errors)
    second, worker, _ = again(execution)
    second.run()
    assert second.errors == {}
    assert set(second.ran) == missing
    assert len(worker.asked) == len(missing)


def test_a_result_that_no_file_can_hold_fails_its_own_job_only(execution: Execution) -> None:
    """For example an attack of a plugin whose history holds tensors instead of numbers."""
    worker = worker_of(execution)
    worker.facts = {"history": [object()]}
    execution.run()
    first = [job for job in execution.plan.jobs if not job.upstream]
    assert display_of(execution).reasons == ["TypeError: Object of type object is not JSON serializable"] * len(first)
    assert len(execution.errors) == len(execution.plan.jobs)


def test_a_refusing_disk_stops_the_run(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = execution.store.write

    def full(kind: str, key: str, artifact: Artifact) -> None:
        if len(written) == 3:
            raise StorageError("the disk is full")
        written.append(key)
        write(kind, key, artifact)

    monkeypatch.setattr(execution.store, "write", full)
    with pytest.raises(StorageError, match="the disk is full"):
        execution.run()
    assert len(worker_of(execution).asked) == 4
    assert execution.ran == written
    assert execution.errors == {}, "a full disk is no failure of a job"


def test_a_worker_that_cannot_write_its_snapshots_stops_the_run_too(execution: Execution) -> None:
    training = execution.plan.jobs[0]
    worker_of(execution).failing = {training.title: StorageError("the disk is full")}
    with pytest.raises(StorageError):
        execution.run()
    assert len(worker_of(execution).asked) == 1


@pytest.mark.parametrize("start", ["train resnet20", "deploy resnet20 qat qat@4"])
def test_a_damaged_artifact_upstream_is_made_again_once(execution: Execution, start: str) -> None:
    execution.run()
    upstream = job_of(execution.plan, start)
    dependent = next(job for job in execution.plan.jobs if upstream in job.upstream)
    expected = execution.store.read(upstream.kind, upstream.key).arrays["key"]
    damage(execution, upstream)
    execution.store.remove(dependent.kind, dependent.key)
    second, worker, display = again(execution)
    second.run()
    assert second.errors == {}
    assert worker.asked == [upstream.title, dependent.title]
    (note,) = display.notes
    assert upstream.key in note
    assert note.endswith("it is computed again")
    np.testing.assert_array_equal(second.store.read(upstream.kind, upstream.key).arrays["key"], expected)


def test_damage_all_the_way_up_is_mended_from_the_top(execution: Execution) -> None:
    execution.run()
    cell = execution.plan.cells[0]
    chain: list[Job] = [cell.target.checkpoint, cell.target, cell.patch]
    for job in chain:
        damage(execution, job)
    execution.store.remove(cell.kind, cell.key)
    second, worker, display = again(execution)
    second.run()
    assert second.errors == {}
    assert len(display.notes) == 3
    assert set(second.ran) == {job.key for job in (*chain, cell)}
    assert all(worker.asked.count(job.title) == 1 for job in chain)


def test_damage_that_cannot_be_mended_is_an_error_of_the_job(execution: Execution) -> None:
    execution.run()
    patch = job_of(execution.plan, "craft lavan")
    dependents = [job for job in execution.plan.jobs if patch in job.upstream]
    damage(execution, patch)
    for job in dependents:
        execution.store.remove(job.kind, job.key)
    second, worker, _ = again(execution)
    worker.failing = {patch.title: ValueError("no luck")}
    second.run()
    assert {patch.key, *(job.key for job in dependents)} == set(second.errors)


def test_an_artifact_error_that_no_damage_explains_is_told(execution: Execution) -> None:
    training = execution.plan.jobs[0]
    worker_of(execution).failing = {training.title: ArtifactError("something else")}
    execution.run()
    assert display_of(execution).reasons[0] == "something else"
    assert worker_of(execution).asked.count(training.title) == 1


def test_a_damaged_result_is_made_again_when_it_is_read(execution: Execution) -> None:
    execution.run()
    cell = execution.plan.cells[-1]
    damage(execution, cell)
    second, worker, display = again(execution)
    second.run()
    found = second.artifact(cell)
    assert found is not None
    assert found.facts["label"] == cell.title
    assert worker.asked == [cell.title]
    assert len(display.notes) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(0), "a component called sys.exit(0)"),
        (SystemExit("done"), "a component called sys.exit('done')"),
        (SystemExit(), "a component called sys.exit()"),
        (
            RuntimeError("Error(s) in loading state_dict for Net:\n\tsize mismatch for fc.weight: 3 and 5.\n\tmore."),
            "RuntimeError: Error(s) in loading state_dict for Net: size mismatch for fc.weight: 3 and 5. (and 1 more)",
        ),
        (AttackError("first\nsecond"), "first"),
    ],
)
def test_the_reason_says_what_happened(execution: Execution, error: BaseException, reason: str) -> None:
    worker_of(execution).failing["evaluate " + execution.plan.cells[0].label] = error
    execution.run()
    assert reason in display_of(execution).reasons
    assert [*execution.errors] == [execution.plan.cells[0].key]


def test_a_hanging_job_is_an_error_and_the_next_one_runs(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = execution.plan.cells[0]
    does = Worker.work

    def work(self: Worker, job: Job, progress: Progress) -> Artifact:
        while job is hanging:
            with contextlib.suppress(Exception):  # as a component may
                time.sleep(0.01)
        return does(self, job, progress)

    monkeypatch.setattr(Worker, "work", work)
    execution.time_limit = 1.0
    execution.run()
    assert [*execution.errors] == [hanging.key]
    assert display_of(execution).reasons == [
        f"{hanging.title}: expected at most 1 s, found it still at work; its result is not kept: raise --time-limit, "
        "or see why it hangs"
    ]


@pytest.mark.parametrize("start", ["train", "craft lavan", "evaluate"])
def test_damaged_facts_are_made_again_before_anything_uses_them(execution: Execution, start: str) -> None:
    execution.run()
    job = next(job for job in execution.plan.jobs if f"{job.kind} {job.label}".startswith(start))
    path = execution.store.path(job.kind, job.key).with_suffix(".json")
    path.write_text(path.read_text().replace('"label": "', '"label": "not '))
    second, worker, display = again(execution)
    second.run()
    assert second.ran == [job.key]
    assert worker.asked == [job.title]
    assert len(display.notes) == 1
    assert second.artifact(job) is not None
