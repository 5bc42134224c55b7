"""What multiplies by weights outside of layers is met where it runs, fails V15 by name, and is refused in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.checks.claimed_bits import bits_are_as_claimed
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.inspection.audit_layers import operations
from qpatchbench.quantizers.inspection.reach import require_reachable
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.types import FLOAT, Bits

TWO = Bits(2, 2)
SIDE, CHANNELS = 8, 16
LAYERS = SIDE * SIDE * (CHANNELS * 27 + 2 * CHANNELS * CHANNELS * 9) + 10 * CHANNELS


class Hidden(nn.Module):
    """A network of three convolutions and a linear layer, and something that no layer owns, after the second."""

    def __init__(self, hidden: Callable[[Hidden, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.third = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.last = nn.Linear(CHANNELS, 10)
        self.filters = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 3, 3) / 12)
        self.experts = nn.Parameter(torch.randn(2, CHANNELS * CHANNELS * 9) / 12)
        self.matrix = nn.Parameter(torch.randn(CHANNELS, CHANNELS) / 4)
        self.register_buffer("stored", torch.randn(CHANNELS, CHANNELS) / 4)
        self.hidden = hidden

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.second(self.first(images).relu()).relu()
        features = self.third(self.hidden(self, features)).relu()
        logits: torch.Tensor = self.last(features.mean((2, 3)))
        return logits


def tokens(features: torch.Tensor) -> torch.Tensor:
    return features.flatten(2).transpose(1, 2)


def image(features: torch.Tensor) -> torch.Tensor:
    return features.transpose(1, 2).reshape(len(features), CHANNELS, SIDE, SIDE)


def mixed(network: Hidden, features: torch.Tensor) -> torch.Tensor:
    """CondConv (Yang et al. 2019): experts are mixed into one filter per image."""
    weights = (features.mean((2, 3))[:, :2].softmax(1) @ network.experts).view(-1, CHANNELS, 3, 3)
    folded = features.reshape(1, -1, SIDE, SIDE)
    return F.conv2d(folded, weights, padding=1, groups=len(features)).view_as(features)


def broadcast(network: Hidden, features: torch.Tensor) -> torch.Tensor:
    return (features[:, None] * network.matrix[None, :, :, None, None]).sum(2)


def stored_in_parts(network: Hidden, features: torch.Tensor) -> torch.Tensor:
    """Its input is written into memory of its own, part by part."""
    given = torch.empty_like(features)
    given[:, :8], given[:, 8:] = features[:, :8], features[:, 8:]
    return F.conv2d(given, network.filters, padding=1)


PIXELS = SIDE * SIDE
ONE_BY_ONE, THREE_BY_THREE = PIXELS * CHANNELS * CHANNELS, PIXELS * CHANNELS * CHANNELS * 9
HIDDEN = {
    "F.conv2d": (lambda n, x: F.conv2d(x, n.filters, padding=1), "convolution", THREE_BY_THREE),
    "transposed": (lambda n, x: F.conv_transpose2d(x, n.filters, padding=1), "convolution", THREE_BY_THREE),
    "in parts": (stored_in_parts, "convolution", THREE_BY_THREE),
    "@": (lambda n, x: image(tokens(x) @ n.matrix), "matrix product", ONE_BY_ONE),
    "from the left": (lambda n, x: (n.matrix @ x.flatten(2)).view_as(x), "matrix product", ONE_BY_ONE),
    "einsum": (lambda n, x: torch.einsum("bchw,dc->bdhw", x, n.matrix), "matrix product", ONE_BY_ONE),
    "buffer": (lambda n, x: image(tokens(x) @ n.stored), "matrix product", ONE_BY_ONE),
    "F.linear": (lambda n, x: image(F.linear(tokens(x), n.matrix)), "matrix product", ONE_BY_ONE),
    "broadcast": (broadcast, "product", ONE_BY_ONE),
}


def built(hidden: Callable[[Hidden, torch.Tensor], torch.Tensor]) -> Hidden:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Hidden(hidden).eval()


def images() -> torch.Tensor:
    return torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def deployed(hidden: Callable[[Hidden, torch.Tensor], torch.Tensor]) -> nn.Module:
    state = built(hidden).state_dict()
    return Ptq(name="ptq", bits=(TWO,)).deploy(Checkpoint(lambda: built(hidden), state, None, (FLOAT,)), TWO, images())


@pytest.mark.parametrize("way", HIDDEN)
def test_what_runs_outside_of_layers_is_counted_and_fails_by_name(way: str) -> None:
    hidden, kind, count = HIDDEN[way]
    *layers, outside = operations(deployed(hidden), images())
    assert [row.name for row in layers] == ["first", "second", "third", "last"]
    assert (outside.name, outside.multiplications) == (f"the network ({kind})", count)
    check = bits_are_as_claimed([*layers, outside], [TWO])
    assert check.verdict == "fail"
    share = f"{100 * count / (LAYERS + count):.0f} %"
    assert f"{share} of the multiply-accumulates run in float outside of all layers: {outside.name}" in check.message


def test_experts_that_are_mixed_into_a_filter_are_counted() -> None:
    rows = [row for row in operations(deployed(mixed), images()) if not row.is_layer]
    assert [(row.name, row.multiplications) for row in rows] == [
        ("the network (matrix product)", 2 * CHANNELS * CHANNELS * 9),
        ("the network (convolution)", THREE_BY_THREE),
    ]


def test_a_layer_that_is_only_read_is_no_quantized_layer() -> None:
    def read(network: Hidden, features: torch.Tensor) -> torch.Tensor:
        return F.conv2d(features, network.second.weight, padding=1)

    outside = operations(deployed(read), images())[-1]
    assert (outside.name, (outside.weight_levels or 0) <= 4) == ("the network (convolution)", True)
    check = bits_are_as_claimed(operations(deployed(read), images()), [TWO])
    assert check.verdict == "fail", "its weights are on the grid, its inputs are not"


def test_what_a_layer_adds_to_its_own_product_is_counted() -> None:
    class Adapted(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(CHANNELS, CHANNELS, 3, padding=1)
            self.low = nn.Parameter(torch.randn(CHANNELS, CHANNELS, 1, 1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) + F.conv2d(inputs, self.low)

    def adapted() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Hidden(lambda network, features: features)
            network.second = Adapted()
        return network.eval()

    checkpoint = Checkpoint(adapted, adapted().state_dict(), None, (FLOAT,))
    network = Ptq(name="ptq", bits=(TWO,)).deploy(checkpoint, TWO, images())
    outside = operations(network, images())[-1]
    assert (outside.name, outside.multiplications) == ("second (convolution)", ONE_BY_ONE)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda n, x: x,
        lambda n, x: x * n.matrix[:, 0].view(1, -1, 1, 1) + n.matrix[:, 1].view(1, -1, 1, 1),
        lambda n, x: image((tokens(x) @ tokens(x).transpose(1, 2)).softmax(-1) @ tokens(x)),
        lambda n, x: F.conv2d(x, torch.full((CHANNELS, 1, 3, 3), 1 / 9), padding=1, groups=CHANNELS),
    ],
    ids=["nothing", "scale and shift", "attention products", "pooling"],
)
def test_what_multiplies_by_no_weights_is_not_counted(
    harmless: Callable[[Hidden, torch.Tensor], torch.Tensor],
) -> None:
    rows = operations(deployed(harmless), images())
    assert all(row.is_layer for row in rows)
    assert bits_are_as_claimed(rows, [TWO]).verdict == "pass"
    require_reachable(built(harmless), images(), "model 'mine'")


def test_a_network_out_of_reach_is_refused_with_what_is_out_of_reach() -> None:
    hidden, _, count = HIDDEN["F.conv2d"]
    with pytest.raises(QPatchBenchError) as caught:
        require_reachable(built(hidden), images(), "model 'mine'")
    assert str(caught.value) == (
        f"model 'mine' cannot be quantized: {100 * count / (LAYERS + count):.0f} % of its multiply-accumulates would "
        "stay in float: the network (convolution). Quantizers reach nn.Conv2d and nn.Linear layers that the network "
        "calls; use another model, or the quantizer fp alone"
    )
    with pytest.raises(QPatchBenchError, match=r"mine cannot be quantized: nothing in it multiplies by weights\."):
        require_reachable(nn.AvgPool2d(2), images(), "mine")
    sounds = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 8, 9))
    with pytest.raises(QPatchBenchError, match=r"mine cannot be quantized: 100 % of .* would stay in float: 1\."):
        require_reachable(sounds, images(), "mine")


def test_conditional_convolutions_of_timm_are_refused() -> None:
    """EfficientNet-CC: a third of its multiplications are those of layers."""
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_cc_b0_4e", num_classes=10).eval()
    with pytest.raises(QPatchBenchError, match=r"^x cannot be quantized: 6\d % of its multiply-accumulates .*conv_pw"):
        require_reachable(network, torch.rand(1, 3, 64, 64), "x")
