"""What a weights file may hold: one network's finite floats, no larger than the file, and nothing that is called."""

from __future__ import annotations

import io
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qpatchbench.errors import WeightsError
from qpatchbench.models.weights import fit, read_tensors, tensors_fingerprint


class Called:
    """A pickle that calls `function` when it is read."""

    def __init__(self, function: Any, *arguments: object) -> None:  # noqa: ANN401 (any callable)
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
OTHER = {"weight": torch.full((2, 3), 2.0), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (bytearray, 10**9, r"calls \w*builtin\w*.bytearray"),
        (torch.Tensor, 10**9, "calls torch.Tensor"),
        (torch.FloatStorage, 10**9, "calls torch.FloatStorage"),
        (torch.UntypedStorage, 10**9, "calls torch.storage.UntypedStorage"),
        (complex, 1, r"calls \w*builtin\w*.complex"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_cannot_ask_for_memory(
    function: object, argument: int, named: str, legacy: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    torch.save({**STATE, "x": Called(function, argument)}, path, _use_new_zipfile_serialization=not legacy)
    assert path.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=rf"a.pt was refused, not executed: .*plain tensors \({named}\)"):
        read_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_packed_file_is_refused(tmp_path: Path) -> None:
    plain, packed = io.BytesIO(), tmp_path / "a.pt"
    torch.save({"weight": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            written.writestr(name, read.read(name))
    assert packed.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="expected entries that are not compressed, as torch.save writes them"):
        read_tensors(packed)


def test_a_mapping_inside_itself_ends(tmp_path: Path) -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="expected tensors by name"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_training_scripts_are_read(legacy: bool, tmp_path: Path) -> None:
    """Parameters, optimizers, random states, half precision and shared tensors: what is usual is still read."""
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": {**dict(layer.named_parameters()), "shared": layer.weight.detach()},
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
        "names": ["a", ("b", 1.5)],
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    found = read_tensors(tmp_path / "a.pt")
    assert set(found) == {"weight", "bias", "shared"}
    assert torch.equal(found["weight"], layer.weight)


@pytest.mark.parametrize(
    ("content", "others"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, "state_dict and state_dict_ema"),
        ({"model": STATE, "model_ema": {"module": OTHER, "decay": 0.9}}, "model and model_ema.module"),
        ({"state_dict": STATE, "averaged": {f"module.{name}": each for name, each in OTHER.items()}}, "averaged"),
        ({"model": STATE, "ema": {"shadow": {"weight": OTHER["weight"]}}}, "model and ema.shadow"),
        ({"model": STATE, "state_dict": OTHER}, "state_dict and model"),
    ],
)
def test_a_second_state_of_the_network_is_not_passed_over(
    content: dict[str, object], others: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError) as caught:
        read_tensors(tmp_path / "a.pt")
    assert f"a.pt: expected one network, found {others}" in str(caught.value).replace(
        "state_dict and averaged", "averaged"
    )
    assert str(caught.value).endswith(
        ", which may be another state of it (such as an average, EMA): save the one that is meant in a file of its own"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"weight": torch.ones(2, 3, dtype=torch.int8)},
            "weight: expected float32, found int8: quantized or complex weights are not read",
        ),
        (
            {"weight": torch.ones(2, 3, dtype=torch.complex64)},
            "weight: expected float32, found complex64: quantized or complex weights are not read",
        ),
        (
            {"bias": torch.tensor([True, False])},
            "bias: expected float32, found bool: quantized or complex weights are not read",
        ),
        ({"bias": torch.tensor([0.0, float("nan")])}, "bias: expected finite values, found some that are not"),
        ({"bias": torch.tensor([0.0, float("-inf")])}, "bias: expected finite values, found some that are not"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_finite_float_is_no_weight(
    changed: dict[str, torch.Tensor], message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        torch.save({**STATE, **changed}, path)
    else:
        save_file({**STATE, **changed}, path)
    layer = nn.Linear(3, 2)
    before = tensors_fingerprint(layer.state_dict())
    with pytest.raises(WeightsError) as caught:
        fit(layer, read_tensors(path), "here")
    assert str(caught.value) == f"here: {message}"
    assert tensors_fingerprint(layer.state_dict()) == before


def test_half_precision_is_read_without_loss() -> None:
    layer = nn.Linear(3, 2)
    values = {name: torch.rand_like(tensor).half() for name, tensor in layer.state_dict().items()}
    fit(layer, values, "here")
    assert torch.equal(layer.weight.detach().half(), values["weight"])


def test_a_fingerprint_follows_names_types_shapes_and_values() -> None:
    first = tensors_fingerprint(STATE)
    assert tensors_fingerprint(dict(reversed(STATE.items()))) == first
    assert tensors_fingerprint({**STATE, "bias": torch.tensor([0.0, -0.0])}) != first
    assert tensors_fingerprint({**STATE, "bias": torch.zeros(1, 2)}) != first
    assert tensors_fingerprint({**STATE, "bias": torch.zeros(2, dtype=torch.int32)}) != first
    assert tensors_fingerprint({"bias": STATE["weight"], "weight": STATE["bias"]}) != first
