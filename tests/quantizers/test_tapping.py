"""What layers hand on, by hand: on float, prepared and deployed networks, and who reads whom where paths branch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.frozen.folding import fold_batch_norm
from qpatchbench.quantizers.frozen.network import freeze, settle
from qpatchbench.quantizers.inspection.taps import Taps
from qpatchbench.quantizers.trained.switchable import set_bits
from qpatchbench.registry import MODELS
from qpatchbench.types import Bits

Make = Callable[..., nn.Module]


class Branching(nn.Module):
    """Two paths that meet in a sum; a shortcut runs after the path that it does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.path = nn.Conv2d(4, 6, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 6, 1)
        self.next = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem(images))
        path = self.path(stem)
        both = path + self.shortcut(stem)
        logits: torch.Tensor = self.head(self.next(both).mean((2, 3)))
        return logits


class Excited(nn.Module):
    """Squeeze-and-excitation: the first layer that reads a map's content reads its mean only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.next = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = nn.functional.relu(self.conv(images), inplace=True)
        features = features * self.squeeze(features.mean((2, 3), keepdim=True)).sigmoid()
        logits: torch.Tensor = self.next(features).mean((2, 3))
        return logits


class Severed(nn.Module):
    """No graph leads from its first layer to its second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.conv(images)
        logits: torch.Tensor = self.next(features.detach()).mean((2, 3))
        return logits


@pytest.fixture
def deployed(switchable: Make, images: torch.Tensor) -> nn.Module:
    module = switchable(32, 4)
    set_bits(module, Bits(4, 4))
    freeze(module)
    assert fold_batch_norm(module, images) == 2
    settle(module)
    return module


def test_float_features_are_what_the_next_layer_is_handed(build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    module = build().eval()
    seen = Taps(module).observed(module, images, ("stem.0", "conv"))
    stem = module.get_submodule("stem")(images)
    torch.testing.assert_close(seen.features["stem.0"], stem, rtol=0, atol=0)
    block = torch.relu(module.get_submodule("norm")(module.get_submodule("conv")(stem)) + stem)
    torch.testing.assert_close(seen.features["conv"], block.mean((2, 3)), rtol=0, atol=0)
    assert torch.equal(seen.logits, module(images))


@pytest.mark.parametrize("width", ["8", "4", "2", "w32a4", "w4a32"])
def test_quantized_features_lie_on_the_grid_of_their_reader(switchable: Make, images: torch.Tensor, width: str) -> None:
    module = switchable(32, width)
    bits = Bits.parse(width)
    set_bits(module, bits)
    features = Taps(module).observed(module, images, ("stem.0",)).features["stem.0"]
    reader = module.get_submodule("conv")
    quantizer = reader.get_submodule("activation_quantizer")
    stem = module.get_submodule("stem")(images)
    assert torch.equal(features, quantizer(stem))
    assert torch.equal(features, stem) == (bits.activation == 32)
    if bits.activation != 32:
        assert len(torch.unique(features)) <= 2**bits.activation
        # The map is all that the reader knows of: its own arithmetic on it gives its output.
        out: list[torch.Tensor] = []
        hook = reader.register_forward_hook(lambda part, arguments, output: out.append(output))
        module(images)
        hook.remove()
        again = functional.conv2d(features, reader.weight, reader.bias, padding=1)  # type: ignore[arg-type]  # tensors
        torch.testing.assert_close(again, out[0], rtol=0, atol=0)


def test_features_of_a_deployed_network_by_hand(deployed: nn.Module, images: torch.Tensor) -> None:
    features = Taps(deployed).observed(deployed, images, ("stem.0",)).features["stem.0"]
    stem, reader = deployed.get_submodule("stem.0"), deployed.get_submodule("conv")
    scale = reader.get_submodule("activation_quantizer").scale
    assert isinstance(scale, torch.Tensor)
    # The first layer reads the image as it is, and what its weights were multiplied with is BatchNorm.
    folded = functional.conv2d(images, stem.weight, stem.bias, padding=1)  # type: ignore[arg-type]  # tensors
    codes = (torch.relu(folded) / scale).round().clamp(0, 15)
    torch.testing.assert_close(features, codes * scale)
    assert len(torch.unique(features)) > 4


@pytest.mark.numerical
def test_deployment_changes_no_feature_but_by_rounding(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 4)
    set_bits(module, Bits(4, 4))
    before = Taps(module).observed(module, images, ("stem.0",)).features["stem.0"].detach()
    freeze(module)
    frozen = Taps(module).observed(module, images, ("stem.0",)).features["stem.0"]
    assert torch.equal(frozen, before)
    fold_batch_norm(module, images)
    folded = Taps(module).observed(module, images, ("stem.0",)).features["stem.0"]
    assert float((folded == before).float().mean()) > 0.99


def test_taps_of_one_network_serve_all_its_widths(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 8, 2)
    taps = Taps(module)
    levels = {}
    for width in (32, 2, 8):
        set_bits(module, Bits(width, width))
        levels[width] = len(torch.unique(taps.observed(module, images, ("stem.0",)).features["stem.0"]))
    assert levels[2] <= 4 < levels[8] <= 256 < levels[32]


def test_the_graph_is_kept(switchable: Make, images: torch.Tensor) -> None:
    module = switchable(32, 4)
    set_bits(module, Bits(4, 4))
    wanted = images.clone().requires_grad_()
    seen = Taps(module).observed(module, wanted, ("stem.0",))
    (of_images,) = torch.autograd.grad(seen.features["stem.0"].square().sum(), wanted, create_graph=True)
    assert of_images.abs().sum() > 0
    weight = module.get_submodule("stem.0")._parameters["weight"]
    assert weight is not None
    (second,) = torch.autograd.grad(of_images.square().sum(), weight)
    assert second.abs().sum() > 0, "a second derivative, with which input gradients are trained"
    (of_features,) = torch.autograd.grad(seen.logits.sum(), seen.features["stem.0"])
    assert of_features.abs().sum() > 0, "the logits were computed from these features"


def test_the_wrapped_forward_is_what_runs(build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    module = build().eval()
    seen = Taps(module).observed(lambda pixels: 3 * module(1 - pixels), images, ("stem.0",))
    assert torch.equal(seen.logits, 3 * module(1 - images))
    assert torch.equal(seen.features["stem.0"], module.get_submodule("stem")(1 - images))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_nothing_is_left_behind(deployed: nn.Module, build: Callable[[], nn.Module], images: torch.Tensor) -> None:
    for module in (deployed, build().train()):
        state, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
        taps = Taps(module)
        taps.early_layers(images)
        assert [part.training for part in module.modules()] == modes
        assert hooks(module) == 0
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
        taps.observed(module, images, ("stem.0", "conv"))
        assert hooks(module) == 0


def test_hooks_go_also_when_the_network_fails(deployed: nn.Module, images: torch.Tensor) -> None:
    taps = Taps(deployed)
    with pytest.raises(RuntimeError, match="channels"):
        taps.early_layers(images[:, :2])
    assert hooks(deployed) == 0
    assert taps.early_layers(images) == ("stem.0",), "a trace that failed is done again"

    def broken(pixels: torch.Tensor) -> torch.Tensor:
        deployed(pixels)
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer"):
        taps.observed(broken, images, ("stem.0",))
    with pytest.raises(QPatchBenchError):
        taps.observed(deployed, images, ("stem.0", "nothing"))
    assert hooks(deployed) == 0


def test_an_unknown_layer_is_named_with_the_nearest(deployed: nn.Module, images: torch.Tensor) -> None:
    taps = Taps(deployed)
    expected = (
        r"no layer 'stem\.1' whose output another layer reads\. Did you mean: stem\.0\? Available: conv, stem\.0\."
    )
    with pytest.raises(QPatchBenchError, match=f"^{expected}$"):
        taps.observed(deployed, images, ("stem.1",))
    with pytest.raises(QPatchBenchError, match="no layer 'head' whose output another layer reads"):
        taps.observed(deployed, images, ("head",))


def test_no_layers_are_no_features(deployed: nn.Module, images: torch.Tensor) -> None:
    seen = Taps(deployed).observed(deployed, images, ())
    assert seen.features == {}
    assert torch.equal(seen.logits, deployed(images))


def test_who_reads_whom_follows_the_data(images: torch.Tensor) -> None:
    module = Branching()
    seen = Taps(module).observed(module, images, ("stem", "path", "shortcut")).features
    stem = torch.relu(module.stem(images))
    # In order of execution, what comes after `path` is `shortcut`, which never sees it.
    assert torch.equal(seen["stem"], stem)
    assert torch.equal(seen["path"], module.path(stem) + module.shortcut(stem))
    assert torch.equal(seen["shortcut"], seen["path"])


def test_a_map_is_preferred_to_its_mean(images: torch.Tensor) -> None:
    module = Excited()
    features = Taps(module).observed(module, images, ("conv",)).features["conv"]
    conv = torch.relu(module.conv(images))
    assert torch.equal(features, conv * module.squeeze(conv.mean((2, 3), keepdim=True)).sigmoid())


def test_readers_are_found_where_no_gradient_arrives(images: torch.Tensor) -> None:
    module = Branching()
    settle(module)
    with torch.no_grad():
        assert Taps(module).maps(images) == ("stem", "path", "shortcut"), "frozen, and no image wants a gradient"
    # What was made of a value without its graph, nobody can tell.
    assert Taps(Severed()).maps(images) == ()
    with pytest.raises(QPatchBenchError, match=r"no layer 'conv' .* None is available"):
        Taps(Severed()).observed(Severed(), images, ("conv",))


@pytest.mark.parametrize(
    ("model", "expected", "shapes"),
    [
        ("resnet20", ("conv1", "layer1.0.conv1", "layer2.0.conv1"), ((16, 32), (16, 32), (32, 16))),
        # Behind the first and second pooling; behind the third, 4 x 4 pixels are too few for a HOG block.
        ("vgg16", ("features.7", "features.14"), ((128, 16), (256, 8))),
    ],
)
def test_early_layers_of_networks_for_small_images(
    model: str, expected: tuple[str, ...], shapes: tuple[tuple[int, int], ...]
) -> None:
    network = create(MODELS, {"name": model}).build(10, 32).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    taps = Taps(network)
    layers = taps.early_layers(images)
    assert layers == tuple(f"backbone.{name}" for name in expected)
    with torch.no_grad():
        features = taps.observed(network, images, layers).features
    assert [tuple(features[layer].shape) for layer in layers] == [(2, c, s, s) for c, s in shapes]
    assert all(features[layer].min() >= 0 for layer in layers), "after the nonlinearity"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("timm/resnet18", ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1")),
        ("timm/mobilenetv2_050", ("blocks.1.0.conv_dw", "blocks.2.0.conv_dw", "blocks.3.0.conv_dw")),
        ("timm/mobilenetv3_small_050", ("blocks.0.0.conv_dw", "blocks.1.0.conv_dw", "blocks.2.0.conv_dw")),
    ],
)
def test_early_layers_of_timm_networks(model: str, expected: tuple[str, ...]) -> None:
    network = create(MODELS, {"name": model}).build(10, 128).eval()
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    taps = Taps(network)
    layers = taps.early_layers(images)
    assert layers == tuple(f"backbone.{name}" for name in expected)
    with torch.no_grad():
        features = taps.observed(network, images, layers).features
    assert [features[layer].shape[-1] for layer in layers] == [32, 16, 8]


def test_early_layers_do_not_depend_on_how_a_network_is_deployed(
    switchable: Make, build: Callable[[], nn.Module], deployed: nn.Module, images: torch.Tensor
) -> None:
    for module in (build(), switchable(32, 4), deployed):
        assert Taps(module).early_layers(images) == ("stem.0",)


def test_a_transformer_has_no_maps() -> None:
    network = create(MODELS, {"name": "timm/vit_tiny_patch16_224"}).build(4, 224).eval()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    taps = Taps(network)
    with pytest.raises(
        QPatchBenchError, match="found no early layers in ImageClassifier: expected a convolution whose"
    ):
        taps.early_layers(images)
    assert taps.maps(images) == ()
    with torch.no_grad():
        features = taps.observed(network, images, ("backbone.patch_embed.proj",)).features
    assert features["backbone.patch_embed.proj"].shape == (1, 197, 192), "tokens can still be observed"
