"""Patches depend on their job alone, not on what else a process has computed before it."""

from __future__ import annotations

from pathlib import Path

import torch

from qpatchbench.runs.records import CellRecord
from qpatchbench.suite.file.load import load_with_source
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import make_plan
from qpatchbench.suite.store.store import Store
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
from qpatchbench.suite.work.worker import BenchWorker

SUITE = """\
suite: random
dataset: {name: fake, image_size: 16, train_pool: 64, test_pool: 32, calibration_images: 16, craft_images: 16}
models: [resnet20]
training: {epochs: 0}
defenses: [dwq]
quantizers: [{name: qat, bits: [8, 4, 2]}, {name: random_precision, bits: [8]}]
attacks: [{name: sparse_rs, size: 4, targets: untargeted, queries: 20}]
transfer: {sources: [same]}
include: [{quantizer: random_precision}]
evaluation: {images: 12, checks: "off"}
"""


COSTED = """\
suite: costed
dataset: {name: fake, image_size: 16, train_pool: 64, test_pool: 32, calibration_images: 16, craft_images: 16}
models: [resnet20]
training: {epochs: 0}
defenses: [none]
quantizers: [{name: ptq, bits: [4]}]
attacks:
  - {name: lavan_per_image, size: 4, targets: [1, 2], steps: 3}
  - {name: lavan_per_image, label: bpda, size: 4, targets: [1, 2], steps: 3, backward: float}
  - {name: sparse_rs, size: 4, targets: untargeted, queries: 20}
transfer: {sources: [same]}
evaluation: {images: 12, checks: "off"}
"""


def test_what_a_patch_cost_is_in_its_record(tmp_path: Path) -> None:
    """By hand: one forward pass a step and one for the last iterate, of 12 images and two goals; a query is a pass."""
    (tmp_path / "costed.yaml").write_text(COSTED)
    suite, source = load_with_source(tmp_path / "costed.yaml")
    bench = Workbench(suite, Store(tmp_path / "cache"), tmp_path, torch.device("cpu"))
    plan, worker = make_plan(suite, loaded_data_keys(bench, source), weights_keys(suite, source)), BenchWorker(bench)
    found = {}
    for job in plan.jobs:
        bench.store.write(job.kind, job.key, worker.work(job, lambda fraction, figures: None))
        if isinstance(job, EvaluateJob) and not job.control:
            record = CellRecord(**bench.store.facts(job.kind, job.key)["record"])
            found[record.attack] = record.forward_passes, record.backward_passes
            if record.attack == "sparse_rs":
                queries = bench.store.read(job.patch.kind, job.patch.key).arrays["queries"]
                assert found["sparse_rs"] == (queries.sum(), 0)
    assert found["lavan_per_image"] == (2 * 12 * 4, 2 * 12 * 3)
    assert found["bpda"] == (2 * 2 * 12 * 4, 2 * 12 * 3), "the network and its float path answer, one gives a gradient"


def test_a_randomised_network_answers_an_attack_by_the_job_alone(tmp_path: Path) -> None:
    (tmp_path / "random.yaml").write_text(SUITE)
    suite, source = load_with_source(tmp_path / "random.yaml")
    bench = Workbench(suite, Store(tmp_path / "cache"), tmp_path, torch.device("cpu"))
    plan, worker = make_plan(suite, loaded_data_keys(bench, source), weights_keys(suite, source)), BenchWorker(bench)
    (craft,) = [job for job in plan.jobs if isinstance(job, CraftJob) and job.sources]
    for job in plan.jobs[: plan.jobs.index(craft)]:
        bench.store.write(job.kind, job.key, worker.work(job, lambda fraction, figures: None))
    network, images = bench.network(craft.sources[0]), torch.rand(4, 3, 16, 16)
    answers = {tuple(network(images).flatten().tolist()) for _ in range(12)}
    assert len(answers) > 1, "the network should draw its width at random"
    first = worker.work(craft, lambda fraction, figures: None)
    for _ in range(3):  # other jobs, such as a clean evaluation, ask it too
        network(images)
    again = worker.work(craft, lambda fraction, figures: None)
    for name, array in first.arrays.items():
        assert (array == again.arrays[name]).all(), name


FOLLOWING = """\
suite: following
dataset: {name: fake, image_size: 16, train_pool: 64, test_pool: 32, calibration_images: 16, craft_images: 16}
models: [resnet20]
training: {epochs: 0}
defenses: [none]
quantizers: [{name: dynamic, bits: [4]}, {name: ptq, bits: [4]}]
attacks:
  - {name: lavan, size: 4, targets: untargeted, steps: 12, batch_size: 8}
  - {name: lavan, label: through_scales, size: 4, targets: untargeted, steps: 12, batch_size: 8, backward: scales}
transfer: {sources: [same]}
evaluation: {images: 12, checks: "off"}
"""


def test_patches_that_follow_scales_differ_where_scales_are_set_at_run_time(tmp_path: Path) -> None:
    (tmp_path / "following.yaml").write_text(FOLLOWING)
    suite, source = load_with_source(tmp_path / "following.yaml")
    bench = Workbench(suite, Store(tmp_path / "cache"), tmp_path, torch.device("cpu"))
    plan, worker = make_plan(suite, loaded_data_keys(bench, source), weights_keys(suite, source)), BenchWorker(bench)
    textures = {}
    for job in plan.jobs:
        if not isinstance(job, EvaluateJob):
            artifact = worker.work(job, lambda fraction, figures: None)
            bench.store.write(job.kind, job.key, artifact)
            if isinstance(job, CraftJob) and job.source:
                textures[job.attack.title, job.source.quantizer.name] = artifact.arrays["textures"]
    assert len(textures) == 4
    assert (textures["lavan", "ptq"] == textures["through_scales", "ptq"]).all()
    assert (textures["lavan", "dynamic"] != textures["through_scales", "dynamic"]).any()
