"""A compiled network computes what the plain one computes; `machine_code.py` has the last step, which writes C++."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from qpatchbench.attacks.gap import Gap
from qpatchbench.defenses.base import Defense
from qpatchbench.errors import QPatchBenchError
from qpatchbench.ops.compilation import compiled
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.preprocessors.preprocessed import preprocessed
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.registry import DEFENSES, PREPROCESSORS, QUANTIZERS
from qpatchbench.testing import trial
from qpatchbench.testing.fixtures import attack_tasks, trainings
from qpatchbench.testing.fixtures.checkpoints import deployed, tried
from qpatchbench.testing.fixtures.networks_and_images import float_network, images_of
from qpatchbench.types import Network


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The graphs that are compiled: traced and differentiated as ever, and then run operator by operator."""
    graphs: list[object] = []
    compiler, plain = torch.compile, torch._dynamo.lookup_backend("aot_eager")

    def noted(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return plain(graph, examples)

    monkeypatch.setattr(torch, "compile", partial(compiler, backend=noted))
    torch.compiler.reset()
    return graphs


def answered(network: Network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the gradient of the sum of their squares."""
    shown = images.clone().requires_grad_()
    logits = network(shown)
    (gradient,) = torch.autograd.grad(logits.square().sum(), shown)
    return logits.detach(), gradient


@pytest.mark.parametrize("name", QUANTIZERS.entries)
def test_deployed_networks_answer_alike(name: str, traced: list[object]) -> None:
    quantizer: Quantizer = trial(QUANTIZERS.get(name), name)
    on = tried(quantizer, 0)
    network = deployed(quantizer, on, quantizer.bits[-1])
    network = getattr(network, "expected", network)
    for near, far in zip(answered(network, on.images), answered(compiled(network), on.images), strict=True):
        torch.testing.assert_close(near, far, rtol=1e-5, atol=1e-6)
    assert traced


@pytest.mark.parametrize("name", PREPROCESSORS.entries)
def test_networks_behind_a_preprocessor_answer_alike(name: str, traced: list[object]) -> None:
    preprocessor: Preprocessor = trial(PREPROCESSORS.get(name), name)
    images = to_float(images_of(0, 2).pixels)

    def attacked() -> nn.Module:
        network = preprocessed(float_network(0), preprocessor, preprocessor.fit(images)).eval()
        expected: nn.Module = getattr(network, "expected", network)
        return expected

    for near, far in zip(answered(attacked(), images), answered(compiled(attacked()), images), strict=True):
        torch.testing.assert_close(near, far, rtol=1e-5, atol=1e-6)
    assert traced


@pytest.mark.parametrize("name", DEFENSES.entries)
def test_trainings_come_to_the_same(name: str, traced: list[object]) -> None:
    defense: Defense = trial(DEFENSES.get(name), name)
    task = trainings.task_for(defense, trainings.groups_of(defense)[0], 0)
    near, _ = trainings.trained(task)
    far, _ = trainings.trained(replace(task, settings=task.settings.model_copy(update={"compile": True})))
    assert traced
    assert near.keys() == far.keys()
    for part, value in near.items():
        torch.testing.assert_close(far[part], value, rtol=1e-4, atol=1e-5, msg=part)


def test_a_patch_is_crafted_alike(traced: list[object]) -> None:
    ground = attack_tasks.ground_for(gap(), 0)
    near, far = (attack_tasks.craft(gap(compile=chosen), *ground) for chosen in (False, True))
    torch.testing.assert_close(near.textures, far.textures, rtol=0, atol=1e-4)
    assert near.history == pytest.approx(far.history, rel=1e-5)
    assert traced


def gap(**fields: bool) -> Gap:
    return Gap.model_validate({"name": "gap", "size": 4, "targets": (1, 2), "steps": 4, "batch_size": 8, **fields})


def test_a_machine_without_a_compiler_is_told_so() -> None:
    torch.compiler.reset()
    network = compiled(nn.Sequential(nn.Flatten(), nn.ReLU()))
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/no/such/compiler"), "force_disable_caches": True}),
        pytest.raises(QPatchBenchError, match=r"compile: true found nothing that compiles for cpu: .* such as g\+\+"),
    ):
        network(torch.rand(1, 3, 4, 4))
