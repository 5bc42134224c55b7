"""A deployed network as an ONNX model: the same codes, weights as integers, and refusals of what it cannot say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.deployment.layer_differences import layer_differences
from qpatchbench.evaluation.deployment.parity import parity
from qpatchbench.models.deployed.written_network import written_network
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.dynamic import Dynamic
from qpatchbench.quantizers.onnx.qdq_model import write_onnx
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.quantizers.qat import Qat
from qpatchbench.quantizers.trained.switchable import initialize, prepare
from qpatchbench.types import FLOAT, Bits

SIDE = 12


class Block(nn.Module):
    """Convolution and BatchNorm, a sum, something negative on its way into a layer, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.Conv2d(6, 8, 3, stride=2)
        self.last = nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 4)."""
        hidden = torch.relu(self.norm(self.stem(images)))
        hidden = hidden + self.inner(hidden)
        logits: torch.Tensor = self.last(torch.relu(self.outer(hidden)).mean((2, 3)))
        return logits


def built() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Block()
        with torch.no_grad():
            network(torch.rand(64, 3, SIDE, SIDE))  # so that BatchNorm has seen something
        return network.eval()


def images(count: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def deployed(quantizer: Quantizer, bits: Bits) -> nn.Module:
    return quantizer.deploy(Checkpoint(built, built().state_dict(), None, (FLOAT,)), bits, images(32))


@pytest.mark.parametrize(
    ("bits", "fields"),
    [
        ("8", {"asymmetric": True, "calibration": "mse"}),
        ("4", {"recipe": "best", "rounding": "nearest"}),
        ("w4a8", {"calibration": "percentile"}),
        ("5", {}),
        ("3", {"calibration": "percentile"}),
        ("2", {"asymmetric": True, "calibration": "mse"}),
    ],
)
def test_the_runtime_has_the_codes_of_the_simulation(bits: str, fields: dict[str, Any]) -> None:
    width = Bits.parse(bits)
    network = deployed(Ptq(name="ptq", bits=(width,), **fields), width)
    before = network(images())
    written = write_onnx(network, SIDE)
    assert torch.equal(network(images()), before)  # the network itself is as it was
    model = written.proto.SerializeToString()
    found = parity(network, written_network(model, SIDE, "block"), images(), batch_size=7)
    assert found.images == 16
    # A code may end on the other side of a tie.
    assert found.largest < 0.02
    layers = layer_differences(network, model, written.quantizers, images(), "block")
    assert [layer.layer for layer in layers] == ["inner", "outer", "last"]
    for layer in layers:
        assert layer.codes == {"inner": 16 * 6 * SIDE**2, "outer": 16 * 6 * SIDE**2, "last": 16 * 8}[layer.layer]
        assert not layer.exceeds
        assert layer.differ <= 0.01 * layer.codes


def test_a_layer_that_is_off_is_named() -> None:
    network = deployed(Ptq(name="ptq", bits=(Bits(8, 8),)), Bits(8, 8))
    written = write_onnx(network, SIDE)
    outer = network.get_submodule("outer")
    with torch.no_grad():
        outer.get_submodule("activation_quantizer").get_buffer("scale").mul_(2)
    layers = layer_differences(network, written.proto.SerializeToString(), written.quantizers, images(), "block")
    assert [layer.layer for layer in layers if layer.exceeds][0] == "outer"
    assert not layers[0].exceeds


def test_weights_are_stored_in_as_few_bits_as_hold_them() -> None:
    import onnx

    for bits, expected in ((8, "INT8"), (3, "INT4")):
        network = deployed(Ptq(name="ptq", bits=(Bits(bits, 8),)), Bits(bits, 8))
        proto = write_onnx(network, SIDE).proto
        constants = {entry.name: entry for entry in proto.graph.initializer}
        kinds = {
            onnx.TensorProto.DataType.Name(constants[node.input[0]].data_type)
            for node in proto.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in constants
        }
        assert kinds == {expected}
        layers = written_network(proto.SerializeToString(), SIDE, "block").stated_layers(images())
        assert layers is not None
        assert all(layer.weight_levels <= 2**bits - 1 for layer in layers)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_relu6_before_a_quantizer_is_written_too(bits: int) -> None:
    def layers() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, last = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6 * 5 * 5, 4)
            network = nn.Sequential(first, nn.ReLU6(), nn.Conv2d(6, 6, 1), nn.ReLU6(), nn.Flatten(), last)
        with torch.no_grad():
            first.weight.mul_(30)  # so that it cuts off
        return network.eval()

    checkpoint = Checkpoint(layers, layers().state_dict(), None, (FLOAT,))
    network = Ptq(name="ptq", bits=(Bits(bits, bits),)).deploy(checkpoint, Bits(bits, bits), images(32))
    written = write_onnx(network, SIDE)
    model = written.proto.SerializeToString()
    assert parity(network, written_network(model, SIDE, "layers"), images(64), batch_size=16).largest < 0.02
    found = layer_differences(network, model, written.quantizers, images(), "layers")
    assert [layer.layer for layer in found] == ["2", "5"]
    assert not any(layer.exceeds for layer in found)
    if bits == 4:
        assert found[0].codes > found[0].differ == 0
    kinds = [node.op_type for node in written.proto.graph.node]
    assert ("Clip" in kinds, "Min" in kinds) == (bits == 8, bits < 8)


def test_trained_quantizers_are_written_too() -> None:
    quantizer = Qat(name="qat", bits=(FLOAT, Bits(8, 8), Bits(4, 4)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Block()
        prepare(module, quantizer.bits, quantizer)
        initialize(module, images(32))
    checkpoint = Checkpoint(Block, module.state_dict(), quantizer, quantizer.bits)
    for bits in quantizer.bits[1:]:
        network = quantizer.deploy(checkpoint, bits, images(32))
        written = write_onnx(network, SIDE)
        runtime = written_network(written.proto.SerializeToString(), SIDE, "block")
        assert parity(network, runtime, images(), batch_size=16).largest < 0.02


def test_what_integers_cannot_say_is_refused() -> None:
    eight = Bits(8, 8)
    with pytest.raises(QPatchBenchError, match=r"inner sets its scale for every image.*deployed by ptq or qat"):
        write_onnx(deployed(Dynamic(name="dynamic", bits=(eight,)), eight), SIDE)
    nine = Bits(9, 9)
    with pytest.raises(QPatchBenchError, match="expected at most 8 bits, which integer runtimes have, found 9"):
        write_onnx(deployed(Ptq(name="ptq", bits=(nine,)), nine), SIDE)
    several = nn.Module()
    several.members = nn.ModuleList([built()])
    with pytest.raises(QPatchBenchError, match="expected a single network, found several that answer together"):
        write_onnx(several, SIDE)


def test_packed_codes_are_read_as_they_were() -> None:
    import onnx

    from qpatchbench.quantizers.onnx.storage import narrow

    codes = np.array([[-8, 7, 0], [1, -1, 5]], np.int8)
    stored = onnx.numpy_helper.from_array(codes, "codes")
    scale = onnx.numpy_helper.from_array(np.ones(2, np.float32), "scale")
    node = onnx.helper.make_node("DequantizeLinear", ["codes", "scale"], ["out"], axis=0)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [stored, scale]))
    narrow(model, [])
    (packed,) = (entry for entry in model.graph.initializer if entry.name == "codes")
    assert packed.data_type == onnx.TensorProto.INT4
    assert len(packed.raw_data) == 3
    assert onnx.numpy_helper.to_array(packed).astype(int).tolist() == codes.tolist()


def test_the_bias_of_a_channel_without_weights_fits_into_32_bits() -> None:
    from qpatchbench.models.deployed.onnx_model import CPU, answers, open_session

    def dead() -> nn.Module:
        network = built()
        with torch.no_grad():
            network.get_submodule("outer").get_parameter("weight")[0] *= 1e-12
            network.get_submodule("outer").get_parameter("bias")[0] = 3.0
        return network

    eight = Bits(8, 8)
    quantizer = Ptq(name="ptq", bits=(eight,))
    network = quantizer.deploy(Checkpoint(dead, dead().state_dict(), None, (FLOAT,)), eight, images(32))
    proto = write_onnx(network, SIDE).proto
    session = open_session(proto.SerializeToString(), CPU, "block")
    (logits,) = answers(session, ["logits"], {"images": images().numpy()}, "block")
    # Cut off at the largest integer, the bias would be a thousandth of what it is.
    torch.testing.assert_close(torch.from_numpy(logits), network(images()), rtol=0.02, atol=0.01)
