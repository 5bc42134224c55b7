"""Recorded attention against timm's own matrices, networks without plain attention, hooks, gradient surgery."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch

from qpatchbench.component import create
from qpatchbench.errors import AttackError
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.ops.maps.attention import attending, token_side, without_conflict
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.registry import QUANTIZERS
from qpatchbench.types import FLOAT, Bits

SIDE, COUNT, HEADS = 16, 3, 3
SMALL: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": HEADS,
    "num_classes": 5,
}

# Plain attention in every layer, and the number of tokens before those of the image.
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", {}, 1),
    "deit": ("deit_tiny_patch16_224", {}, 1),
    "distilled deit": ("deit_tiny_distilled_patch16_224", {}, 2),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}, 5),
    "no class token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0),
    "normalised queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True}, 1),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}, 1),
}
# What the formula does not cover.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a CNN": ("resnet10t", {"num_classes": 5}),
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2), "num_classes": 5},
    ),
    "one window with a position bias": (
        "swin_tiny_patch4_window7_224",
        {"img_size": SIDE, "window_size": 4, "embed_dim": 12, "depths": (2,), "num_heads": (2,), "num_classes": 5},
    ),
    "a relative position bias": ("vit_relpos_small_patch16_224", SMALL),
    "another bias": ("beit_base_patch16_224", SMALL),
    "rotary embeddings": ("vit_small_patch16_rope_224", SMALL),
    "mixed heads": ("cait_xxs24_224", {**SMALL, "depth_token_only": 1}),
}


def made(name: str, fields: dict[str, Any], image_size: int = SIDE) -> torch.nn.Module:
    """A frozen classifier whose attention is far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = timm.create_model(name, **fields)
        for parameter in backbone.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return ImageClassifier(backbone, (0.5,) * 3, (0.25,) * 3, image_size).eval().requires_grad_(False)


def transformer(kind: str = "vit") -> torch.nn.Module:
    name, fields, _ = TRANSFORMERS[kind]
    return made(name, {**SMALL, **fields})


def deployed(quantizer: str, bits: str) -> torch.nn.Module:
    def build() -> torch.nn.Module:
        return transformer()

    images = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    mode = create(QUANTIZERS, {"name": quantizer, "bits": [bits]})
    module: torch.nn.Module = mode.deploy(
        Checkpoint(build, build().state_dict(), None, (FLOAT,)), Bits.parse(bits), images
    )
    return module


def own_attention(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Timm's own matrices, which it forms only while its kernels are not fused, caught where it drops out of them."""
    caught: list[torch.Tensor] = []
    modules = [module for module in network.modules() if hasattr(module, "fused_attn")]
    hooks = []
    for module in modules:
        module.fused_attn = False  # type: ignore[assignment]  # torch types attributes as tensors or modules
        hooks.append(
            dict(module.named_children())["attn_drop"].register_forward_pre_hook(lambda _, a: caught.append(a[0]))
        )
    with torch.no_grad():
        network(images)
    for hook, module in zip(hooks, modules, strict=True):
        hook.remove()
        module.fused_attn = True  # type: ignore[assignment]  # as above
    return caught


def hooks_on(network: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def others() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    **{kind: partial(transformer, kind) for kind in TRANSFORMERS},
    "8 bits": partial(deployed, "ptq", "8"),
    "3 bits": partial(deployed, "ptq", "3"),
    "dynamic": partial(deployed, "dynamic", "4"),
}


@pytest.mark.numerical
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_recorded_attention_is_the_networks_own(kind: str, images: torch.Tensor, others: torch.Tensor) -> None:
    network = NETWORKS[kind]()
    own = own_attention(network, images)
    prefix = TRANSFORMERS[kind][2] if kind in TRANSFORMERS else 1
    assert float(torch.stack([matrix.amax() for matrix in own]).min()) > 0.2, "nearly uniform: the test is void"
    with attending(network, others) as seen:
        seen(images)
        assert (seen.depth, seen.grid, seen.prefix) == (len(own), 4, prefix) == (3, 4, prefix)
        for layer, expected in enumerate(own):
            found = seen.log_attention(layer).exp()
            assert found.shape == (COUNT, HEADS, prefix + 16, prefix + 16)
            assert torch.allclose(found, expected, atol=1e-6)
            assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_logits_are_the_networks_own_to_the_bit(kind: str, images: torch.Tensor) -> None:
    network = transformer(kind)
    expected = network(images)
    with attending(network, images[:1]) as seen:
        assert torch.equal(seen(images), expected)


@pytest.mark.parametrize("kind", ["vit", "distilled deit", "no class token"])
def test_sums_over_the_matrix(kind: str, images: torch.Tensor) -> None:
    network, prefix = transformer(kind), TRANSFORMERS[kind][2]
    tokens = torch.tensor([[0, 5], [15, 3], [7, 6]])
    own = own_attention(network, images)
    with attending(network, images) as seen:  # the example's attention is there without another answer
        for layer, matrix in enumerate(own):
            received, on_tokens = seen.attention_received(layer), seen.log_attention_on(tokens, layer)
            for image in range(COUNT):
                columns = matrix[image].sum(dim=0).sum(dim=0)[prefix:]
                assert torch.allclose(received[image].flatten(), columns, atol=1e-5)
                pair = matrix[image].mean(dim=0)[:, prefix + tokens[image]].sum(dim=1)
                assert float(on_tokens[image]) == pytest.approx(float(pair.log().mean()), abs=1e-4)


def test_the_last_answer_replaces_the_one_before(images: torch.Tensor, others: torch.Tensor) -> None:
    network = transformer()
    with attending(network, images) as seen:
        first = seen.log_attention(1)
        seen(others)
        assert seen.log_attention(1).shape[0] == len(others)
        seen(images)
        assert seen.depth == 3
        assert torch.equal(seen.log_attention(1), first)


def test_attention_that_underflows_still_has_a_finite_gradient(images: torch.Tensor) -> None:
    network = transformer()
    for name, parameter in network.named_parameters():
        if "qkv.weight" in name:
            parameter.mul_(30)
    inputs = images.clone().requires_grad_()
    with attending(network, images) as seen:
        seen(inputs)
        attention = seen.log_attention(1).exp()
        assert float((attention == 0).float().mean()) > 0.1, "nothing underflows: the test is void"
        tokens = (attention.sum(dim=(1, 2))[:, 1:] == 0).int().argmax(dim=1, keepdim=True)
        value = seen.log_attention_on(tokens, 1)
        (gradient,) = torch.autograd.grad(value.sum(), inputs)
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())


@pytest.mark.numerical
def test_following_the_gradient_draws_attention(images: torch.Tensor) -> None:
    inputs, tokens = images.clone().requires_grad_(), torch.full((COUNT, 1), 6)
    with attending(transformer(), images) as seen:
        seen(inputs)
        before = seen.log_attention_on(tokens, 2)
        (gradient,) = torch.autograd.grad(before.sum(), inputs)
        seen(images + 1e-3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        assert bool((seen.log_attention_on(tokens, 2) > before).all())


@pytest.mark.parametrize("kind", OTHERS)
def test_a_network_without_plain_attention_is_an_error(kind: str) -> None:
    name, fields = OTHERS[kind]
    size = 32 if fields.get("img_size", 32) == 32 else SIDE
    network = made(name, fields, size)
    with pytest.raises(AttackError) as caught, attending(network, torch.rand(COUNT, 3, size, size)):
        pytest.fail("accepted")
    message = str(caught.value)
    assert message.startswith("expected a vision transformer whose tokens attend to all others, such as deit_b or ")
    assert f"found {type(network.backbone).__name__}: " in message
    assert message.endswith("patch_apgd works on any network")
    assert hooks_on(network) == 0


def test_a_function_is_no_network_to_look_into(images: torch.Tensor) -> None:
    network = transformer()
    with (
        pytest.raises(AttackError, match="found function: no self-attention was seen"),
        attending(lambda x: network(x), images),
    ):
        pytest.fail("accepted")


def test_hooks_are_gone_afterwards(images: torch.Tensor) -> None:
    network = transformer()
    with attending(network, images):
        assert hooks_on(network) == 6
    assert hooks_on(network) == 0
    with pytest.raises(ZeroDivisionError), attending(network, images):
        raise ZeroDivisionError
    assert hooks_on(network) == 0
    with pytest.raises(RuntimeError), attending(network, torch.rand(1, 5, SIDE, SIDE)):
        pytest.fail("accepted")
    assert hooks_on(network) == 0


def test_surgery_on_vectors_by_hand() -> None:
    main = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    own = torch.tensor([[-5.0, 0.0], [4.0, -3.0], [1.0, 1.0], [-1.0, 2.0]])
    # (-5, 0) . (3, 4) = -15, and -15 / 25 (3, 4) = (-1.8, -2.4) is taken out.
    expected = torch.tensor([[-3.2, 2.4], [4.0, -3.0], [1.0, 1.0], [-1.0, 2.0]])
    assert torch.allclose(without_conflict(own, main), expected)
    assert torch.allclose(without_conflict(-2 * main, main), torch.zeros(4, 2), atol=1e-6)


def test_surgery_leaves_no_conflict_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(3)
    own, main = torch.randn(2, 40, 3, 4, 4, generator=generator)
    kept = without_conflict(own, main)
    assert kept.shape == own.shape
    before, after = (own * main).sum(dim=(1, 2, 3)), (kept * main).sum(dim=(1, 2, 3))
    assert 5 < int((before < 0).sum()) < 35
    assert torch.equal(kept[before >= 0], own[before >= 0])
    assert torch.allclose(after[before < 0], torch.zeros(()), atol=1e-4)
    assert torch.allclose(without_conflict(kept, main), kept, atol=1e-5)
    assert torch.allclose(without_conflict(own, 1e3 * main), kept, atol=1e-4), "the length of the main one is no matter"
    removed = (own - kept)[before < 0].flatten(1)
    cosine = torch.nn.functional.cosine_similarity(removed, main[before < 0].flatten(1))
    assert torch.allclose(cosine, torch.full_like(cosine, -1), atol=1e-4)


def test_tokens_in_pixels() -> None:
    assert token_side(32, 8, 4) == token_side(32, 8, 32) == 4
    assert token_side(224, 14, 48) == 16


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((32, 7, 4), "multiple of the 7 of the network's 7 x 7 tokens, found 32 pixels"),
        ((32, 8, 6), "4 x 4 pixels each on images of 32, found a patch of 6 x 6; use size 4 or 8"),
        ((32, 8, 3), "found a patch of 3 x 3; use size 4"),
        ((16, 2, 12), "8 x 8 pixels each on images of 16, found a patch of 12 x 12; use size 8 or 16"),
    ],
)
def test_sizes_that_are_no_whole_tokens(sides: tuple[int, int, int], message: str) -> None:
    with pytest.raises(AttackError) as caught:
        token_side(*sides)
    assert message in str(caught.value)
