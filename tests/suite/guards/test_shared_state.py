"""Jobs whose component changes what it was lent: an error, nothing kept, and later rows as if it had never run."""

from __future__ import annotations

import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.lavan import Lavan
from qpatchbench.errors import AttackError, SharedStateError
from qpatchbench.suite.file.load import load_with_source
from qpatchbench.suite.guards.process_state import process_state
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import make_plan
from qpatchbench.suite.store.store import Store
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
from qpatchbench.suite.work.worker import BenchWorker
from qpatchbench.types import CraftTask, Patch, silent

SUITE = """\
suite: shared
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 40, test_pool: 12, calibration_images: 8,
          craft_images: 8}
models: [resnet20]
training: {epochs: 0}
defenses: [none]
quantizers: [{name: dynamic, bits: [4]}]
attacks: [{name: lavan, size: 2, steps: 1, batch_size: 4}]
transfer: {sources: [same]}
evaluation: {images: 12, checks: "off"}
"""
Deed = Callable[[CraftTask], None]


class Meddles(Lavan):
    """LaVAN that does in the end what a test asks for."""

    def craft(self, task: CraftTask) -> Patch:
        patch = super().craft(task)
        DEEDS[self.label or ""](task)
        return patch


def network_of(task: CraftTask) -> torch.nn.Module:
    network = task.networks[0]
    assert isinstance(network, torch.nn.Module)
    return network


@torch.no_grad()
def weights(task: CraftTask) -> None:
    next(network_of(task).parameters()).data.zero_()


@torch.no_grad()
def buffers(task: CraftTask) -> None:
    next(network_of(task).buffers()).add_(1)


def mode(task: CraftTask) -> None:
    network_of(task).train()


def forward(task: CraftTask) -> None:
    network_of(task).forward = lambda images: torch.zeros(len(images), 3)


def hook(task: CraftTask) -> None:
    network_of(task).register_forward_hook(lambda module, inputs, output: -output)


def pixels(task: CraftTask) -> None:
    task.crafting.pixels.numpy()[:] = 0  # past torch's own bookkeeping


def labels(task: CraftTask) -> None:
    task.crafting.labels.zero_()


def dtype(task: CraftTask) -> None:
    torch.set_default_dtype(torch.float64)


def threads(task: CraftTask) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def gradients(task: CraftTask) -> None:
    torch.set_grad_enabled(False)


def folder(task: CraftTask) -> None:
    os.chdir("/")


def environment(task: CraftTask) -> None:
    os.environ["QPATCHBENCH_TRIAL"] = "changed"


def weights_then_error(task: CraftTask) -> None:
    weights(task)
    raise AttackError("no patch")


def seeds(task: CraftTask) -> None:
    torch.manual_seed(0)
    random.seed(0)


DEEDS: dict[str, Deed] = {
    each.__name__: each
    for each in (
        weights, buffers, mode, forward, hook, pixels, labels, dtype, threads, gradients, folder, environment,
        weights_then_error, seeds,
    )
}  # fmt: skip


@pytest.fixture(autouse=True)
def _variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("QPATCHBENCH_TRIAL", "kept")
    kept = (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd())
    yield
    assert kept == (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd())
    assert torch.is_grad_enabled()
    assert os.environ["QPATCHBENCH_TRIAL"] == "kept"


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    (tmp_path / "shared.yaml").write_text(SUITE)
    suite, _ = load_with_source(tmp_path / "shared.yaml")
    return Workbench(suite, Store(tmp_path / "cache"), tmp_path, torch.device("cpu"))


@pytest.fixture
def job(bench: Workbench) -> CraftJob:
    """A patch of LaVAN, after all jobs before it."""
    _, source = load_with_source(bench.store.root.parent / "shared.yaml")
    plan = make_plan(bench.suite, loaded_data_keys(bench, source), weights_keys(bench.suite, source))
    found = next(each for each in plan.jobs if isinstance(each, CraftJob) and each.sources)
    _work_before(bench, found)
    return found


def _work_before(bench: Workbench, job: Job) -> None:
    for earlier in job.upstream:
        if not bench.store.has(earlier.kind, earlier.key):
            _work_before(bench, earlier)
            bench.store.write(earlier.kind, earlier.key, BenchWorker(bench).work(earlier, silent))


def meddling(job: CraftJob, deed: str) -> CraftJob:
    attack: Attack = Meddles.model_validate({**job.attack.model_dump(), "label": deed})
    return dataclasses.replace(job, attack=attack)


def textures(bench: Workbench, job: CraftJob) -> bytes:
    return BenchWorker(bench).work(job, silent).arrays["textures"].tobytes()


@pytest.mark.parametrize(
    ("deed", "found"),
    [
        ("weights", "a network it was given, in 1 parts, the first: "),
        ("buffers", "a network it was given, in 1 parts, the first: "),
        ("mode", "a network it was given, in "),
        ("forward", "a network it was given, in 1 parts, the first: module (the whole)"),
        ("hook", "a network it was given, in 1 parts, the first: module (the whole)"),
        ("pixels", "the craft images"),
        ("labels", "the craft images"),
        ("dtype", "torch's default dtype, from torch.float32 to torch.float64"),
        ("threads", "the number of torch's threads, from "),
        ("gradients", "torch's gradient mode, from True to False"),
        ("folder", "the working folder, from "),
        ("environment", "the environment variable QPATCHBENCH_TRIAL"),
    ],
)
def test_a_job_that_changes_what_others_use_is_an_error(bench: Workbench, job: CraftJob, deed: str, found: str) -> None:
    clean = textures(bench, job)
    with pytest.raises(SharedStateError) as told:
        BenchWorker(bench).work(meddling(job, deed), silent)
    assert f"expected a job to leave what others use as it was, found changed: {found}" in str(told.value)
    assert str(told.value).endswith("Its result is not kept; let the component work on copies")
    assert textures(bench, job) == clean


def test_a_job_that_spoils_a_network_and_then_fails_spoils_no_other(bench: Workbench, job: CraftJob) -> None:
    clean = textures(bench, job)
    with pytest.raises(AttackError, match="no patch"):
        BenchWorker(bench).work(meddling(job, "weights_then_error"), silent)
    assert textures(bench, job) == clean


def test_global_draws_are_a_jobs_own(bench: Workbench, job: CraftJob) -> None:
    before = torch.get_rng_state(), random.getstate()
    BenchWorker(bench).work(meddling(job, "seeds"), silent)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_global_draws_do_not_depend_on_what_was_drawn_before() -> None:
    def drawn() -> tuple[float, float, float]:
        with process_state(3) as changes:
            found = float(torch.rand(())), random.random(), float(np.random.random())  # noqa: NPY002, S311
        assert not changes.found
        return found

    first = drawn()
    torch.rand(5)
    random.random()  # noqa: S311
    assert drawn() == first


def test_what_libraries_may_use_is_put_back_without_a_word() -> None:
    limit = sys.getrecursionlimit()
    with process_state(3) as changes:
        sys.setrecursionlimit(2 * limit)
        os.environ["QPATCHBENCH_OF_A_LIBRARY"] = "1"
    assert not changes.found
    assert sys.getrecursionlimit() == limit
    assert "QPATCHBENCH_OF_A_LIBRARY" not in os.environ
