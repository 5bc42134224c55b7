"""Every runtime answers as the network does that its file was made of, and says of itself what the file says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from qpatchbench.models.deployed.deployed_model import DeployedModel
from qpatchbench.models.deployed.deployed_network import DeployedNetwork
from tests.models.deployed.made_files import CLASSES, SIDE, Around, images, int8_file, onnx_file, tiny


def opened(path: Path | str, **fields: Any) -> DeployedNetwork:  # noqa: ANN401 (any field)
    network = DeployedModel(**{"name": "deployed", "file": str(path), "bits": 32, **fields}).build(CLASSES, SIDE)
    assert isinstance(network, DeployedNetwork)
    return network


def exported(path: Path, network: torch.nn.Module) -> Path:
    sizes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (images(2),), dynamic_shapes=sizes), path)
    return path


def test_a_float_file_answers_as_its_network(tmp_path: Path) -> None:
    network = tiny()
    scripted = tmp_path / "tiny.pt"
    torch.jit.script(network).save(scripted)  # type: ignore[no-untyped-call]  # torch's own
    function = tmp_path / "tiny_function.py"
    function.write_text(
        "from tests.models.deployed.made_files import tiny\n\n\n"
        "def answer(images):\n    return tiny()(images).numpy()\n"
    )
    files: dict[str, Path | str] = {
        "onnxruntime-cpu": onnx_file(tmp_path / "tiny.onnx", network),
        "torch-export": exported(tmp_path / "tiny.pt2", network),
        "torchscript": scripted,
        "python": f"{function}:answer",
    }
    for runtime, path in files.items():
        found = opened(path)
        ready = DeployedModel(name="deployed", file=str(path), bits=32).ready
        assert (ready.runtime, ready.sibling) == (runtime, None)
        assert ready.release
        torch.testing.assert_close(found(images()), network(images()), rtol=1e-4, atol=1e-4)
        pixels = images().requires_grad_()
        assert not found(pixels).requires_grad
        assert list(found.state_dict()) == ["digest"]


def test_pt2e_and_torchao_modules_answer(tmp_path: Path) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from torchao.utils import unwrap_tensor_subclass

    rules = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    sizes = ({0: torch.export.Dim("batch")},)
    prepared = prepare_pt2e(torch.export.export(tiny(), (images(2),), dynamic_shapes=sizes).module(), rules)
    prepared(images(64))
    expected = tiny()(images())
    converted = convert_pt2e(prepared)
    found = opened(exported(tmp_path / "pt2e.pt2", converted))
    assert (found(images()) - expected).abs().max() < 0.3
    layers = found.stated_layers(images())
    assert layers is not None
    assert [(layer.weight_bits, layer.activation_bits) for layer in layers] == [(8, 8)] * 3
    assert [layer.multiplications for layer in layers] == [7 * 7 * 8 * 27, 5 * 5 * 12 * 72, 36]
    assert all(2 < layer.weight_levels <= 256 for layer in layers)
    plain = opened(exported(tmp_path / "plain.pt2", tiny())).stated_layers(images())
    assert plain is not None
    assert {(layer.weight_bits, layer.activation_bits) for layer in plain} == {(32, 32)}

    packed = tiny()
    quantize_(packed, Int8DynamicActivationInt8WeightConfig())
    raw = exported(tmp_path / "raw.pt2", packed)
    with pytest.raises(Exception, match=r"found a pickle.*unwrap_tensor_subclass"):
        opened(raw)
    found = opened(exported(tmp_path / "ao.pt2", unwrap_tensor_subclass(packed)))
    assert (found(images()) - expected).abs().max() < 1
    assert found.stated_layers(images()) is None


def test_images_become_what_the_file_takes(tmp_path: Path) -> None:
    network, pixels = tiny(), images()
    last = onnx_file(
        tmp_path / "last.onnx", Around(network, lambda x: x.permute(0, 3, 1, 2)), pixels.permute(0, 2, 3, 1)
    )
    torch.testing.assert_close(opened(last)(pixels), network(pixels), rtol=1e-4, atol=1e-4)

    plain = onnx_file(tmp_path / "plain.onnx", network)
    found = opened(plain, range=(0, 255), mean=(100, 110, 120), std=(50, 60, 70))(pixels)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((100.0, 110, 120), (50.0, 60, 70)))
    torch.testing.assert_close(found, network((255 * pixels - mean) / std), rtol=1e-4, atol=1e-3)

    smaller = images()[:, :, :10, :10]
    resized = torch.nn.functional.interpolate(smaller, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(opened(plain)(smaller), network(resized), rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    network = tiny()
    for size in (1, 2):
        alone = onnx_file(tmp_path / f"fixed{size}.onnx", network, images(size), batch=False)
        found = opened(alone)
        assert found.rules.batch_size == size
        torch.testing.assert_close(found(images()), network(images()), rtol=1e-4, atol=1e-4)


def test_probabilities_become_log_probabilities(tmp_path: Path) -> None:
    network = tiny()
    path = onnx_file(tmp_path / "soft.onnx", Around(network, after=lambda z: z.softmax(1)))
    found = opened(path, answers="probabilities")(images())
    torch.testing.assert_close(found, network(images()).log_softmax(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_bits_are_read_off_quantized_operators(tmp_path: Path, form: str) -> None:
    path = int8_file(tmp_path / "int8.onnx", onnx_file(tmp_path / "tiny.onnx", tiny()), form)
    network = opened(path, bits=8)
    expected = tiny()(images())
    assert (network(images()) - expected).abs().max() < 0.05 * expected.abs().max()
    layers = network.stated_layers(images())
    assert layers is not None
    assert [(layer.weight_bits, layer.activation_bits) for layer in layers] == [(8, 8)] * 3
    # By hand: 7x7 outputs of 8 channels over 27 weights; 5x5 of 12 over 72; 3 over 12.
    assert [layer.multiplications for layer in layers] == [7 * 7 * 8 * 27, 5 * 5 * 12 * 72, 36]
    assert [layer.parameters for layer in layers] == [8 * 27, 12 * 72, 36]
    assert all(2 < layer.weight_levels <= 256 for layer in layers)
    assert all(layer.activation_levels is not None and layer.activation_levels <= 256 for layer in layers)


def test_a_float_file_states_floats(tmp_path: Path) -> None:
    layers = opened(onnx_file(tmp_path / "tiny.onnx", tiny())).stated_layers(images())
    assert layers is not None
    assert {(layer.weight_bits, layer.activation_bits) for layer in layers} == {(32, 32)}
    assert {layer.activation_levels for layer in layers} == {None}
