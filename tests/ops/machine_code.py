"""Networks compiled to machine code answer and train as the plain ones; `make test-portable` runs this."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qpatchbench.defenses.base import Defense
from qpatchbench.ops.compilation import compiled
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import set_bits
from qpatchbench.registry import DEFENSES
from qpatchbench.testing import trial
from qpatchbench.testing.fixtures import trainings
from qpatchbench.testing.fixtures.networks_and_images import float_network, images_of, switchable_network
from qpatchbench.types import Bits
from tests.ops.test_compilation import answered


@pytest.mark.parametrize("training", [True, False])
def test_answers_and_gradients_are_alike(training: bool) -> None:
    """In double precision, where a last bit hardly ever turns a rounding."""
    torch.compiler.reset()
    bits = (Bits(4, 4),)
    network = switchable_network(float_network(0), 0, bits, Qat(name="qat", bits=bits)).double().train(training)
    set_bits(network, bits[0])
    images = to_float(images_of(0, 6).pixels).double()
    for near, far in zip(answered(network, images), answered(compiled(network), images), strict=True):
        torch.testing.assert_close(near, far, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["qat", "pbat"])
def test_a_resumed_training_ends_at_the_same_bits(name: str) -> None:
    """Compiled once and compiled anew, as another process does."""
    defense: Defense = trial(DEFENSES.get(name), name)
    task = trainings.task_for(defense, trainings.groups_of(defense)[0], 0)
    task = replace(task, settings=task.settings.model_copy(update={"compile": True}))
    torch.compiler.reset()
    whole, snapshots = trainings.trained(task)
    torch.compiler.reset()
    resumed, _ = trainings.trained(task, snapshots[1])
    assert len(snapshots) > 2
    assert all(torch.equal(whole[part], resumed[part]) for part in whole)
