"""Snapshots through the file format that they are kept in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.quantizers.qat import Qat
from qpatchbench.training.loop import EpochLog
from qpatchbench.training.snapshot import Snapshot
from tests.training.conftest import Run, TinyNet, same

Train = Callable[..., Run]


def through_a_file(snapshot: Snapshot, folder: Path) -> Snapshot:
    path = folder / "snapshot.safetensors"
    save_file(dict(snapshot.tensors), path)
    log = json.loads(json.dumps(snapshot.log))
    return Snapshot(load_file(path), snapshot.epochs, tuple(log))


def test_round_trip_is_exact(run: Train, quantizer: Qat, tmp_path: Path) -> None:
    task = {"defense": QuantizationAwareTraining(name="qat"), "quantizer": quantizer, "bits": quantizer.bits}
    whole = run(**task)
    read = through_a_file(whole.snapshots[2], tmp_path)
    assert same(read.tensors, whole.snapshots[2].tensors)
    assert read.log == whole.snapshots[2].log
    assert {name: t.dtype for name, t in read.tensors.items()} == {
        name: t.dtype for name, t in whole.snapshots[2].tensors.items()
    }
    assert same(run(snapshot=read, **task).state, whole.state), "a run resumed from a file took another way"


def trained_step(optimizer: torch.optim.SGD, module: torch.nn.Module) -> None:
    loss = module(torch.ones(2, 3, 8, 8)).square().mean()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


@pytest.fixture
def pair() -> tuple[torch.nn.Module, torch.optim.SGD]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TinyNet().eval()
    return module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def test_a_snapshot_is_a_copy(pair: tuple[torch.nn.Module, torch.optim.SGD]) -> None:
    module, optimizer = pair
    trained_step(optimizer, module)
    snapshot = Snapshot.of(module, optimizer, 1, EpochLog(0, {"clean": 0.5}, 1.0))
    kept = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    trained_step(optimizer, module)
    assert same(kept, snapshot.tensors), "training after the snapshot changed it"
    assert snapshot.log == ({"epoch": 0, "losses": {"clean": 0.5}, "seconds": 1.0},)


def test_restoring_does_not_tie_the_module_to_the_snapshot(pair: tuple[torch.nn.Module, torch.optim.SGD]) -> None:
    module, optimizer = pair
    trained_step(optimizer, module)
    snapshot = Snapshot.of(module, optimizer, 1, EpochLog(0, {}, 0.0))
    kept = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    other = TinyNet().eval()
    resumed = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    snapshot.restore(other, resumed)
    trained_step(resumed, other)
    trained_step(optimizer, module)
    assert same(kept, snapshot.tensors), "training after restoring changed the snapshot"
    assert same(dict(module.state_dict()), dict(other.state_dict())), "weights and momentum must both come back"


def test_before_the_first_step_there_is_no_momentum(pair: tuple[torch.nn.Module, torch.optim.SGD]) -> None:
    module, optimizer = pair
    snapshot = Snapshot.of(module, optimizer, 0, EpochLog(0, {}, 0.0))
    assert not any(name.startswith("momentum/") for name in snapshot.tensors)
    snapshot.restore(module, optimizer)
    assert not optimizer.state


def test_a_snapshot_of_another_architecture_is_refused(pair: tuple[torch.nn.Module, torch.optim.SGD]) -> None:
    module, optimizer = pair
    snapshot = Snapshot.of(module, optimizer, 1, EpochLog(0, {}, 0.0))
    other = torch.nn.Linear(3, 2)
    with pytest.raises(RuntimeError, match="conv.weight"):
        snapshot.restore(other, torch.optim.SGD(other.parameters(), lr=0.1))
