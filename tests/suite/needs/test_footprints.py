"""Footprints against real networks: their weights, their files, and what a step of training keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from qpatchbench.quantizers.trained.switchable import initialize, prepare, set_bits
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.needs.footprints import FILE, Footprints
from qpatchbench.suite.needs.live_tensors import LiveTensors
from tests.suite.conftest import MakePlan, MakeSuite


def test_the_line_goes_through_batches_that_were_not_counted(make_suite: MakeSuite, tmp_path: Path) -> None:
    suite = make_suite()
    (model,) = suite.models
    network = model.build(10, 16).train()
    with LiveTensors() as counted:
        logits = network(torch.rand(16, 3, 16, 16))
    held, before = counted.held, Footprints(suite, tmp_path).of(model.title, False)
    assert before is not None
    assert before.weights == sum(value.nbytes for value in (*network.parameters(), *network.buffers()))
    assert before.graph.at(16) == pytest.approx(held, rel=0.01)
    with LiveTensors() as counted:
        logits = network(torch.rand(16, 3, 16, 16))
        logits.logsumexp(1).sum().backward()
    assert counted.most <= before.differentiated(16) < 1.3 * counted.most
    with LiveTensors() as counted, torch.no_grad():
        network.eval()(torch.rand(16, 3, 16, 16))
    assert before.answer.at(16) == pytest.approx(counted.most, rel=0.05)


def test_fake_quantizers_keep_more(make_suite: MakeSuite, tmp_path: Path) -> None:
    suite = make_suite()
    (model,), (quantizer,) = suite.models, suite.quantizers
    found = Footprints(suite, tmp_path).of(model.title, True)
    network = model.build(10, 16)
    prepare(network, quantizer.bits, quantizer)
    initialize(network, torch.rand(4, 3, 16, 16))
    set_bits(network, quantizer.bits[1])
    with LiveTensors() as counted:
        logits = network.train()(torch.rand(16, 3, 16, 16))
    assert found is not None
    assert logits.shape == (16, 10)
    assert found.graph.at(16) == pytest.approx(counted.held, rel=0.05)


def test_large_images_are_counted_without_values(make_suite: MakeSuite, tmp_path: Path) -> None:
    small = Footprints(make_suite(dataset={"name": "fake", "image_size": 64}), tmp_path).of("resnet20", False)
    large = Footprints(make_suite(dataset={"name": "fake", "image_size": 128}), tmp_path).of("resnet20", False)
    assert small is not None
    assert large is not None
    assert large.weights == small.weights
    assert large.graph.each == pytest.approx(4 * small.graph.each, rel=0.01)


def test_a_state_is_as_large_as_its_file(plan_of: MakePlan, make_suite: MakeSuite, tmp_path: Path) -> None:
    plan = plan_of(quantizers=[{"name": "qat", "bits": [32, 8, 2], "scale": "lsq"}])
    (job,) = [job for job in plan.jobs if isinstance(job, TrainJob)]
    network = job.model.build(10, 16)
    prepare(network, job.bits, job.quantizer)
    initialize(network, torch.rand(4, 3, 16, 16))
    found = Footprints(plan.suite, tmp_path).state(job)
    assert found is not None
    assert found.file == pytest.approx(len(save(network.state_dict())), rel=0.02)
    assert found.learned == sum(value.nbytes for value in network.parameters())


def test_what_was_counted_is_remembered_and_damage_is_counted_again(
    make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, cache = make_suite(), tmp_path / "cache"
    assert Footprints(suite, cache, keep=False).of("resnet20", True) is not None
    assert not cache.exists()
    found = Footprints(suite, cache).of("resnet20", True)
    monkeypatch.setattr("qpatchbench.suite.needs.footprints._graph", lambda network, images: 0)
    assert Footprints(suite, cache).of("resnet20", True) == found
    (cache / FILE).write_text((cache / FILE).read_text().replace("weights", "weight"))
    again = Footprints(suite, cache).of("resnet20", True)
    assert again is not None
    assert again.graph.each == 0


def test_a_model_that_nobody_knows_or_that_cannot_be_built_has_none(
    make_suite: MakeSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = make_suite()
    assert Footprints(suite, tmp_path).of("another", False) is None

    def build(self: object, classes: int, side: int) -> torch.nn.Module:
        raise RuntimeError("it asks for a value")

    monkeypatch.setattr(type(suite.models[0]), "build", build)
    assert Footprints(suite, tmp_path).of("resnet20", False) is None
