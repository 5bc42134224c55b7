"""Patch-Fool: places on whole tokens, the first step by hand, what it raises, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError

from qpatchbench.attacks.patch_fool import PatchFool, first_half
from qpatchbench.component import create
from qpatchbench.errors import AttackError
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.ops.crafting import loops
from qpatchbench.ops.crafting.losses import cross_entropy, goal_classes
from qpatchbench.ops.maps.attention import attending
from qpatchbench.ops.patches.pasting import paste, round_to_8_bit, to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import ImageDraws, forked
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.registry import QUANTIZERS
from qpatchbench.types import (
    FLOAT,
    Bits,
    CraftTask,
    Goal,
    ImageSet,
    Network,
    Patch,
    Placement,
    Targeted,
    Untargeted,
)

SIDE, TOKEN, GRID, COUNT, CLASSES = 16, 4, 4, 10, 5


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patch_fool(**fields: object) -> PatchFool:
    return PatchFool.model_validate({"name": "patch_fool", "size": TOKEN, "steps": 5, **fields})


def vision_transformer(architecture: str = "vit_tiny_patch16_224", **fields: Any) -> ImageClassifier:  # noqa: ANN401
    small: dict[str, Any] = {"img_size": SIDE, "patch_size": TOKEN, "embed_dim": 24, "depth": 4, "num_heads": 3}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = timm.create_model(architecture, num_classes=CLASSES, **{**small, **fields})
        for parameter in backbone.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    return ImageClassifier(backbone, (0.5,) * 3, (0.25,) * 3, SIDE).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> ImageClassifier:
    return vision_transformer()


@pytest.fixture(scope="module")
def images(network: ImageClassifier) -> ImageSet:
    """Labelled as the network answers them, so that every success is the patch's."""
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=draws(0), dtype=torch.uint8)
    return ImageSet(pixels, network(to_float(pixels)).argmax(dim=1), tuple(map(str, range(COUNT))))


def suite_places(images: ImageSet, size: int = TOKEN) -> Placement:
    return sample_placement(len(images), (images.side, images.side), (size, size), draws(1))


def crafted(attack: PatchFool, network: Network, images: ImageSet, *goals: Goal, seed: int = 2) -> Patch:
    places = suite_places(images, attack.size.side(images.side))
    task = CraftTask((network,), goals or (Untargeted(),), images[:0], draws(seed), attacked=images, placement=places)
    return attack.craft(task)


def where(patch: Patch) -> tuple[torch.Tensor, torch.Tensor]:
    assert patch.placement is not None
    assert bool((patch.placement.angles == 0).all())
    assert bool((patch.placement.scales == 1).all())
    return patch.placement.rows, patch.placement.columns


def losses(network: Network, images: ImageSet, patch: Patch) -> torch.Tensor:
    """Of the patches of one goal, as an evaluation would see them."""
    assert patch.placement is not None
    pasted = paste(to_float(images.pixels), patch.textures, patch.masks, patch.placement)
    return cross_entropy(network(pasted), images.labels, goal_classes(patch.goals).expand(len(images)))


def hooks_on(network: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


def own_attention(network: ImageClassifier, images: ImageSet, layer: int) -> torch.Tensor:
    """Timm's own matrix (B, heads, N, N), formed while its kernels are not fused."""
    caught: list[torch.Tensor] = []
    module = network.backbone.blocks[layer].attn  # type: ignore[index, union-attr]  # torch types submodules loosely
    module.fused_attn = False
    hook = module.attn_drop.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    network(to_float(images.pixels))
    hook.remove()
    module.fused_attn = True
    return caught[0]


# Places


@pytest.mark.parametrize("size", [4, 8, 12, 16])
@pytest.mark.parametrize("location", ["attention", "given"])
def test_places_are_on_the_grid(network: ImageClassifier, images: ImageSet, size: int, location: str) -> None:
    patch = crafted(patch_fool(size=size, location=location, steps=1), network, images, Targeted(1), Untargeted())
    rows, columns = where(patch)
    assert len(rows) == len(patch.textures) == 2 * COUNT
    for start in (rows, columns):
        assert bool((start % TOKEN == 0).all())
        assert bool((start >= 0).all())
        assert bool((start <= SIDE - size).all())


@pytest.mark.numerical
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("layer", [0, 2, 3, 50])
@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_the_tokens_most_attended_to_are_covered(images: ImageSet, size: int, layer: int, architecture: str) -> None:
    network = vision_transformer(architecture)
    prefix = 2 if "distilled" in architecture else 1
    matrix = own_attention(network, images, min(layer, 3))
    patch = crafted(patch_fool(size=size, layer=layer, steps=1), network, images)
    tokens = size // TOKEN
    for image, (row, column) in enumerate(zip(*map(torch.Tensor.tolist, where(patch)), strict=True)):
        received = {
            (TOKEN * top, TOKEN * left): sum(
                float(matrix[image, :, :, prefix + GRID * (top + down) + left + right].sum())
                for down in range(tokens)
                for right in range(tokens)
            )
            for top in range(GRID - tokens + 1)
            for left in range(GRID - tokens + 1)
        }
        assert (row, column) == max(received, key=lambda place: received[place])
    assert len(set(zip(*map(torch.Tensor.tolist, where(patch)), strict=True))) > 1, "all at one place: the test is void"


def test_places_of_the_suite_move_to_the_nearest_tokens(network: ImageClassifier, images: ImageSet) -> None:
    rows, columns = torch.arange(COUNT), torch.arange(COUNT).flip(0) + 3
    flat = torch.zeros(COUNT)
    task = CraftTask(
        (network,), (Untargeted(),), images[:0], draws(0), attacked=images,
        placement=Placement(rows, columns, flat, flat + 1),
    )  # fmt: skip
    found = where(patch_fool(location="given", steps=1).craft(task))
    assert bool(((found[0] - rows).abs() <= TOKEN // 2).all())
    assert bool(((found[1] - columns).abs() <= TOKEN // 2).all())
    assert found[0].tolist() == [0, 0, 0, 4, 4, 4, 8, 8, 8, 8]


def test_the_place_follows_the_clean_image_not_the_goal_or_the_seed(network: ImageClassifier, images: ImageSet) -> None:
    first = crafted(patch_fool(), network, images, Targeted(0), Untargeted())
    second = crafted(patch_fool(), network, images, seed=9)
    for axis in (0, 1):
        assert torch.equal(where(first)[axis], where(second)[axis].repeat(2))


def test_a_network_that_enlarges_its_images_has_smaller_tokens(images: ImageSet) -> None:
    """Images of 16 pixels at 32, 8 x 8 tokens of 2 pixels each."""
    network = ImageClassifier(vision_transformer(img_size=32).backbone, (0.5,) * 3, (0.25,) * 3, 32).eval()
    rows, columns = where(crafted(patch_fool(size=6, steps=1), network.requires_grad_(False), images))
    assert bool((rows % 2 == 0).all())
    assert bool((columns % 2 == 0).all())
    assert bool(((rows % 4 != 0) | (columns % 4 != 0)).any())


# Steps


@pytest.mark.numerical
@pytest.mark.parametrize("goal", [Targeted(3), Untargeted()], ids=str)
@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_the_first_step_is_that_of_the_formula(
    network: ImageClassifier, images: ImageSet, goal: Goal, weight: float
) -> None:
    """Adam's first step follows the sign of the gradient, here taken from timm's own attention matrix."""
    patch = crafted(patch_fool(steps=2, attention_weight=weight, step_size=0.03), network, images, goal)
    rows, columns = where(patch)
    flat = torch.zeros(COUNT)
    placement = Placement(rows, columns, flat, flat + 1)
    start = ImageDraws.of(COUNT, forked(draws(2)), torch.device("cpu")).uniform(3, TOKEN, TOKEN)
    textures = round_to_8_bit(start).requires_grad_()
    pasted = paste(to_float(images.pixels), textures, torch.ones(1, 1, TOKEN, TOKEN), placement)
    targets = goal_classes((goal,)).expand(COUNT)
    caught: list[torch.Tensor] = []
    module = network.backbone.blocks[1].attn  # type: ignore[index, union-attr]  # torch types submodules loosely
    module.fused_attn = False
    hook = module.attn_drop.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    loss = cross_entropy(network(pasted), images.labels, targets)
    hook.remove()
    module.fused_attn = True
    assert patch.history[0] == pytest.approx(float(loss.detach().mean()), abs=1e-5)
    (main,) = torch.autograd.grad(loss.sum(), textures, retain_graph=True)
    token = 1 + rows // TOKEN * GRID + columns // TOKEN
    paid = caught[0].mean(dim=1)[torch.arange(COUNT), :, token].log().mean(dim=1)
    (drawn,) = torch.autograd.grad(-paid.sum(), textures)
    for image in range(COUNT):
        product = (drawn[image] * main[image]).sum()
        if product < 0:
            drawn[image] -= product / main[image].square().sum() * main[image]
    stepped = (start - 0.03 * (main + weight * drawn).sign()).clamp(0, 1)
    pasted = paste(to_float(images.pixels), round_to_8_bit(stepped), torch.ones(1, 1, TOKEN, TOKEN), placement)
    expected = cross_entropy(network(pasted), images.labels, targets)
    assert patch.history[1] == pytest.approx(float(expected.mean()), abs=2e-3)
    assert abs(patch.history[1] - patch.history[0]) > 1e-2


@pytest.mark.numerical
@pytest.mark.parametrize("goal", [Targeted(3), Untargeted()], ids=str)
@pytest.mark.parametrize("location", ["attention", "given"])
def test_it_beats_noise_at_the_same_place(
    network: ImageClassifier, images: ImageSet, goal: Goal, location: str
) -> None:
    patch = crafted(patch_fool(steps=40, location=location), network, images, goal)
    found = losses(network, images, patch)
    for seed in range(5):
        noise = Patch(
            torch.rand(patch.textures.shape, generator=draws(seed)), patch.masks, patch.goals, placement=patch.placement
        )
        assert bool((found < losses(network, images, noise)).all())
    assert len(patch.history) == 40
    assert sum(patch.history[-5:]) < sum(patch.history[:5])


@pytest.mark.numerical
def test_more_steps_lower_the_loss(network: ImageClassifier, images: ImageSet) -> None:
    """With the schedule of the short run as its beginning, the long run is at least as good on every image."""
    found = [losses(network, images, crafted(patch_fool(steps=steps), network, images)) for steps in (1, 10, 60)]
    assert float(found[0].mean()) > float(found[1].mean()) > float(found[2].mean())
    assert bool((found[2] <= found[1] + 1e-5).all())


class Turning(torch.nn.Module):
    """A transformer that from some answer on adds to its logits."""

    def __init__(self, network: torch.nn.Module, good: int, added: torch.Tensor) -> None:
        super().__init__()
        self.network, self.good, self.added, self.answers = network, good, added, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """As the network does."""
        self.answers += 1
        logits: torch.Tensor = self.network(images)
        return logits if self.answers <= self.good else logits + self.added


def test_the_best_iterate_is_kept_at_8_bits(network: ImageClassifier, images: ImageSet) -> None:
    """Once nothing succeeds any more, what was best before remains."""
    against = torch.tensor([50.0, 0.0, 0.0, 0.0, 0.0])
    turning = Turning(network, 1 + 6, against)  # the clean images, the start and five steps
    kept = crafted(patch_fool(steps=15), turning, images, Targeted(2))
    short = crafted(patch_fool(steps=5), network, images, Targeted(2))
    assert torch.equal(kept.textures, short.textures)
    assert min(kept.history[6:]) > max(kept.history[:6]) + 1
    assert torch.equal(round_to_8_bit(kept.textures), kept.textures)


@pytest.mark.numerical
def test_a_larger_weight_draws_more_attention(network: ImageClassifier, images: ImageSet) -> None:
    """On the layers of the first half, which here is one."""

    def drawn(weight: float) -> torch.Tensor:
        patch = crafted(patch_fool(steps=30, attention_weight=weight, step_size=0.02), network, images)
        rows, columns = where(patch)
        assert patch.placement is not None
        with attending(network, paste(to_float(images.pixels), patch.textures, patch.masks, patch.placement)) as seen:
            return seen.log_attention_on((rows // TOKEN * GRID + columns // TOKEN).view(-1, 1), 1)

    assert float(drawn(100.0).mean()) > float(drawn(0.0).mean()) + 0.1


def test_layers_of_the_first_half() -> None:
    found = {depth: list(first_half(depth)) for depth in (1, 2, 3, 4, 6, 12)}
    assert found == {1: [0], 2: [1], 3: [1], 4: [1], 6: [1, 2], 12: [1, 2, 3, 4, 5]}


@pytest.mark.numerical
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_networks(images: ImageSet, depth: int) -> None:
    network = vision_transformer(depth=depth)
    history = crafted(patch_fool(steps=20), network, images).history
    assert sum(history[-5:]) < sum(history[:5])


class Exact(torch.nn.Module):
    """A transformer in double precision: rounding, which depends on the batch, cannot turn the sign of a gradient."""

    def __init__(self, network: ImageClassifier) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Its logits, as float64."""
        logits: torch.Tensor = self.network(images.double())
        return logits


@pytest.mark.numerical
def test_scores_do_not_depend_on_batching(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Exact(vision_transformer())
    goals = (Targeted(1), Untargeted())
    whole = crafted(patch_fool(), exact, images, *goals)
    for size in (1, 3, 9):
        monkeypatch.setattr(loops, "PER_IMAGE_BATCH", size)
        split = crafted(patch_fool(), exact, images, *goals)
        assert split.history == pytest.approx(whole.history, abs=1e-5)
        assert torch.equal(where(split)[0], where(whole)[0])
        assert torch.equal(where(split)[1], where(whole)[1])
        for goal in (0, 1):
            found, expected = (losses(exact, images, patch.for_goal(goal)) for patch in (split, whole))
            assert torch.allclose(found, expected, atol=1e-5), f"goal {goal}, {size} images at once"


@pytest.mark.numerical
@pytest.mark.parametrize("bits", ["8", "4", "w4a8"])
def test_a_quantized_deployment_is_attacked(images: ImageSet, bits: str) -> None:
    built = vision_transformer()
    mode = create(QUANTIZERS, {"name": "ptq", "bits": [bits]})
    checkpoint = Checkpoint(vision_transformer, built.state_dict(), None, (FLOAT,))
    network = mode.deploy(checkpoint, Bits.parse(bits), to_float(images.pixels))
    patch = crafted(patch_fool(steps=30), network, images)
    start = ImageDraws.of(COUNT, forked(draws(2)), torch.device("cpu")).uniform(3, TOKEN, TOKEN)
    noise = Patch(round_to_8_bit(start), patch.masks, patch.goals, placement=patch.placement)
    assert bool((losses(network, images, patch) <= losses(network, images, noise) + 1e-5).all())
    assert float(losses(network, images, patch).mean()) < float(losses(network, images, noise).mean()) - 0.1


# Refusals, and nothing left behind


@pytest.mark.parametrize("step", [0, 3])
def test_answers_that_are_not_finite_are_an_error_and_leave_no_hooks(
    network: ImageClassifier, images: ImageSet, step: int
) -> None:
    breaking = Turning(network, 1 + step, torch.tensor(float("nan")))  # the first answer is to the clean images
    with pytest.raises(AttackError, match=rf"not finite at step {step} of 5"):
        crafted(patch_fool(), breaking, images)
    assert hooks_on(breaking) == 0


def test_crafting_leaves_no_hooks_and_no_gradients(network: ImageClassifier, images: ImageSet) -> None:
    crafted(patch_fool(), network, images)
    assert hooks_on(network) == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_size_that_is_no_whole_number_of_tokens_is_an_error(network: ImageClassifier, images: ImageSet) -> None:
    with pytest.raises(
        AttackError, match=r"4 x 4 pixels each on images of 16, found a patch of 6 x 6; use size 4 or 8"
    ):
        crafted(patch_fool(size=6), network, images)
    assert hooks_on(network) == 0


def test_images_that_are_no_whole_number_of_tokens_are_an_error(network: ImageClassifier) -> None:
    odd = ImageSet(torch.zeros(2, 3, 18, 18, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    with pytest.raises(AttackError, match=r"multiple of the 4 of the network's 4 x 4 tokens, found 18 pixels"):
        crafted(patch_fool(), network, odd)


@pytest.mark.parametrize("architecture", ["resnet10t", "swin_tiny_patch4_window7_224"])
def test_other_networks_are_an_error_that_names_one_that_works(images: ImageSet, architecture: str) -> None:
    fields: dict[str, Any] = (
        {"img_size": 16, "window_size": 2, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
        if "swin" in architecture
        else {}
    )
    backbone = timm.create_model(architecture, num_classes=CLASSES, **fields)
    network = ImageClassifier(backbone, (0.5,) * 3, (0.25,) * 3, 16).eval().requires_grad_(False)
    with pytest.raises(
        AttackError, match=r"deit_b or timm/vit_tiny_patch16_224, found .*patch_apgd works on any network"
    ):
        crafted(patch_fool(), network, images)
    assert hooks_on(network) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("step_size", 0),
        ("attention_weight", -1),
        ("layer", -1),
        ("location", "best"),
        ("backward", "float"),
    ],
)
def test_fields_are_checked(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        patch_fool(**{field: value})
