"""Every validity check: an honest case passes, the decoy that it is there for fails, and honest cases never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from qpatchbench.attacks.lavan import Lavan
from qpatchbench.evaluation.checks import artifacts
from qpatchbench.ops.patches import pasting
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.runs.records import Check
from qpatchbench.types import CraftTask, ImageSet, Patch, Placement, Stage, Targeted, Untargeted

SIDE, SIZE, CLASSES, COUNT = 8, 3, 4, 64


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_set(seed: int = 0, count: int = COUNT) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draws(seed), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), generator=draws(seed + 1))
    return ImageSet(pixels, labels, tuple(f"{seed}/{index}" for index in range(count)))


class Honest(nn.Module):
    """A small convolutional network with BatchNorm and dropout, in eval mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, CLASSES)
            )
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8, 8) -> (B, 4)."""
        logits: torch.Tensor = self.body(images)
        return logits


class Probabilities(Honest):
    """Softmax output."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Rows that sum to one."""
        return super().forward(images).softmax(dim=1)


class Randomised(Honest):
    """Noise on every pass, from a generator of its own."""

    noise = draws(9)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Another answer every time."""
        return super().forward(images + 0.01 * torch.rand(images.shape, generator=self.noise))


class GradientKiller(Honest):
    """Rounds its input to whole levels, which leaves no gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same predictions but for rounding."""
        return super().forward((images * 255).round() / 255)


class NanGradient(Honest):
    """Finite outputs whose gradient is NaN wherever a pixel is zero."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The square root has no slope at zero, and zero times infinity is NaN."""
        return super().forward(images) + 0 * (images * 0).sqrt().sum()


def place(count: int = COUNT, rotation: float = 0.0) -> Placement:
    return sample_placement(count, (SIDE, SIDE), (SIZE, SIZE), draws(3), rotation=rotation)


def patch_of(seed: int = 0, count: int = 1) -> Patch:
    textures = torch.rand(count, 3, SIZE, SIZE, generator=draws(seed))
    return Patch(textures, torch.ones(count, 1, SIZE, SIZE), (Untargeted(),))


def failing(check: Check, identity: str, message: str) -> None:
    assert (check.id, check.verdict) == (identity, "fail"), f"the decoy was not caught: {check}"
    assert message in check.message


@pytest.mark.parametrize("seed", range(10))
def test_honest_networks_are_sound(seed: int) -> None:
    sound, determined = artifacts.network_is_sound(Honest(seed), torch.rand(16, 3, SIDE, SIDE, generator=draws(seed)))
    assert (sound.verdict, determined.verdict) == ("pass", "pass"), f"false alarm: {sound} {determined}"
    assert (sound.id, determined.id) == ("V7", "V8")
    assert determined.figures == {"difference": 0.0}


def test_probabilities_are_caught() -> None:
    sound, _ = artifacts.network_is_sound(Probabilities(), torch.rand(16, 3, SIDE, SIDE))
    failing(sound, "V7", "probabilities, expected logits")


def test_logits_that_happen_to_be_positive_are_no_probabilities() -> None:
    class Positive(Honest):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).sigmoid() / 2

    sound, _ = artifacts.network_is_sound(Positive(), torch.rand(16, 3, SIDE, SIDE))
    assert sound.verdict == "pass"


@pytest.mark.parametrize(("part", "name"), [("", "the network"), ("body.1", "body.1"), ("body.3", "body.3")])
def test_a_module_in_training_mode_is_caught(part: str, name: str) -> None:
    network = Honest()
    (network.get_submodule(part) if part else network).training = True
    sound, _ = artifacts.network_is_sound(network, torch.rand(16, 3, SIDE, SIDE))
    failing(sound, "V7", name)


def test_a_randomised_network_is_caught() -> None:
    _, determined = artifacts.network_is_sound(Randomised(), torch.rand(16, 3, SIDE, SIDE))
    failing(determined, "V8", "randomised")
    assert determined.figures["difference"] > 0


def test_an_attack_that_leaves_the_state_alone_passes() -> None:
    network = Honest()
    before = artifacts.state_hash(network.state_dict())
    attack = Lavan(name="lavan", size=SIZE, steps=2, batch_size=8)
    attack.craft(CraftTask((network,), (Targeted(1),), image_set(), draws(0)))
    check = artifacts.state_is_unchanged(before, artifacts.state_hash(network.state_dict()))
    assert (check.id, check.verdict) == ("V7", "pass")


@pytest.mark.parametrize("name", ["body.0.weight", "body.1.running_mean", "body.1.num_batches_tracked"])
def test_a_state_that_an_attack_changed_is_caught(name: str) -> None:
    network = Honest()
    before = artifacts.state_hash(network.state_dict())
    tensor = network.state_dict()[name]
    # The smallest change there is: one bit of one value.
    raw = tensor.flatten()[:1].view(torch.int32 if tensor.dtype == torch.float32 else torch.int64)
    raw ^= 1
    failing(artifacts.state_is_unchanged(before, artifacts.state_hash(network.state_dict())), "V7", "state")


def test_batch_norm_in_training_mode_changes_the_state() -> None:
    network = Honest()
    before = artifacts.state_hash(network.state_dict())
    network.train()
    network(torch.rand(16, 3, SIDE, SIDE, generator=draws(0)))
    failing(artifacts.state_is_unchanged(before, artifacts.state_hash(network.state_dict())), "V7", "state")


def test_state_hash_does_not_depend_on_order_or_layout() -> None:
    state = Honest().state_dict()
    turned = dict(reversed(state.items()))
    turned["body.0.weight"] = turned["body.0.weight"].contiguous(memory_format=torch.channels_last)
    assert artifacts.state_hash(turned) == artifacts.state_hash(state)


@pytest.mark.parametrize("seed", range(10))
def test_honest_patches_are_valid(seed: int) -> None:
    check = artifacts.patch_is_valid(patch_of(seed), SIZE, flipped=0, predictions=256)
    assert (check.id, check.verdict, check.message) == ("V1", "pass", "")
    assert check.figures["area"] == check.figures["budget"] == SIZE * SIZE


@pytest.mark.parametrize(
    ("decoy", "message"),
    [
        (replace(patch_of(), textures=patch_of().textures + 0.5), "values in"),
        (replace(patch_of(), textures=patch_of().textures - 0.5), "expected [0, 1]"),
        (replace(patch_of(), textures=patch_of().textures * float("nan")), "not finite"),
        (replace(patch_of(), textures=patch_of().textures / 0), "not finite"),
        (replace(patch_of(), masks=patch_of().masks * 0.5), "not binary"),
        (replace(patch_of(), masks=patch_of().masks * 2), "not binary"),
        (Patch(torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4), (Untargeted(),)), "area 16 pixels, budget 9"),
    ],
)
def test_invalid_patches_are_caught(decoy: Patch, message: str) -> None:
    failing(artifacts.patch_is_valid(decoy, SIZE, 0, 0), "V1", message)


def test_one_bad_texture_among_many_is_caught() -> None:
    patch = patch_of(count=20)
    patch.textures[13, 1, 2, 0] = 1.01
    failing(artifacts.patch_is_valid(patch, SIZE, 0, 0), "V1", "values in")
    patch = patch_of(count=20)
    larger = torch.zeros(20, 1, 4, 4)
    larger[:, :, :3, :3] = 1
    larger[7, 0, 3, 3] = 1
    failing(artifacts.patch_is_valid(Patch(torch.rand(20, 3, 4, 4), larger, patch.goals), SIZE, 0, 0), "V1", "area 10")


def test_rounding_flips_warn_only_beyond_their_interval() -> None:
    for flipped, predictions, verdict in [
        (0, 256, "pass"), (1, 256, "pass"), (3, 256, "pass"), (7, 256, "warn"), (1, 1, "warn"), (60, 10_000, "pass"),
        (80, 10_000, "warn"), (0, 0, "pass"),
    ]:  # fmt: skip
        check = artifacts.patch_is_valid(patch_of(), SIZE, flipped, predictions)
        assert check.verdict == verdict, f"{flipped} of {predictions}: {check}"


@pytest.mark.parametrize("rotation", [0.0, 45.0])
def test_pasting_leaves_the_outside_alone(rotation: float) -> None:
    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=draws(1))
    check = artifacts.outside_is_untouched(images, patch_of(), place(rotation=rotation))
    assert (check.id, check.verdict, check.figures) == ("V1", "pass", {"changed": 0.0})


def test_a_paste_that_touches_the_outside_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pasting.paste

    def blending(images: torch.Tensor, *rest: object) -> torch.Tensor:
        """The decoy: the whole image passes through a rounding that nobody sees."""
        return honest(images, *rest) * (1 + 2e-7)  # type: ignore[arg-type]  # passed on as they came

    images = torch.rand(COUNT, 3, SIDE, SIDE, generator=draws(1))
    monkeypatch.setattr(artifacts, "paste", blending)
    failing(artifacts.outside_is_untouched(images, patch_of(), place()), "V1", "outside the patch changed")


class Threshold(nn.Module):
    """Class 1 where the brightest pixel exceeds a level halfway between two that a file can hold."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, 2)."""
        brightest = images.amax(dim=(1, 2, 3))
        return torch.stack([torch.full_like(brightest, 200.5 / 255), brightest], dim=1)


def test_rounding_flips_are_counted() -> None:
    images = ImageSet(torch.zeros(COUNT, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.int64), ())
    for level, flips in [(200.0, 0), (200.45, 0), (200.55, 0), (200.9, 0), (201.0, 0)]:
        patch = replace(patch_of(), textures=torch.full((1, 3, SIZE, SIZE), level / 255))
        assert artifacts.rounding_flips(Threshold(), images, patch, place()) == (flips, COUNT)


def test_a_truncating_writer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding keeps 200.9 above the threshold of 200.5; truncation makes it 200."""
    images = ImageSet(torch.zeros(COUNT, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(COUNT, dtype=torch.int64), ())
    patch = replace(patch_of(), textures=torch.full((1, 3, SIZE, SIZE), 200.9 / 255))
    assert artifacts.rounding_flips(Threshold(), images, patch, place()) == (0, COUNT)
    monkeypatch.setattr(artifacts, "round_to_8_bit", lambda values: (values * 255).to(torch.uint8).float() / 255)
    flips = artifacts.rounding_flips(Threshold(), images, patch, place())
    assert flips == (COUNT, COUNT)
    check = artifacts.patch_is_valid(patch, SIZE, *flips)
    assert check.verdict == "warn"
    assert "8-bit rounding" in check.message


@pytest.mark.parametrize("seed", range(5))
def test_honest_patches_survive_rounding(seed: int) -> None:
    flips = artifacts.rounding_flips(Honest(seed), image_set(seed, 256), patch_of(seed), place(256))
    assert artifacts.patch_is_valid(patch_of(seed), SIZE, *flips).verdict == "pass"


def test_per_image_patches_are_rounded_on_their_own_images() -> None:
    flips = artifacts.rounding_flips(Honest(), image_set(), patch_of(count=COUNT), place())
    assert flips[1] == COUNT


@pytest.mark.parametrize("seed", range(10))
def test_honest_gradients_are_useful(seed: int) -> None:
    gradients = artifacts.patch_gradients(Honest(seed), image_set(seed), patch_of(seed), place())
    assert gradients.shape == (COUNT, 3, SIZE, SIZE)
    check = artifacts.gradients_are_useful(gradients, gradients)
    assert (check.id, check.verdict) == ("V3", "pass"), f"false alarm: {check}"
    assert check.figures["zero_share"] == 0
    assert check.figures["cosine_to_float"] == pytest.approx(1)


def test_gradients_are_those_of_single_images() -> None:
    """Against autograd on one image at a time, for a universal and for per-image patches."""
    network, images, placement = Honest(), image_set(), place()
    for count in (1, COUNT):
        patch = patch_of(count=count)
        together = artifacts.patch_gradients(network, images, patch, placement)
        for index in (0, 17, COUNT - 1):
            alone = patch if count == 1 else replace(patch, textures=patch.textures[index : index + 1])
            single = artifacts.patch_gradients(network, images[index : index + 1], alone, placement[index : index + 1])
            assert torch.allclose(single[0], together[index], atol=1e-6)


def test_a_gradient_killer_is_caught() -> None:
    gradients = artifacts.patch_gradients(GradientKiller(), image_set(), patch_of(), place())
    check = artifacts.gradients_are_useful(gradients, None)
    failing(check, "V3", "100.0 % of the images give no gradient")
    assert "cosine_to_float" not in check.figures


def test_gradients_that_are_not_finite_are_caught() -> None:
    gradients = artifacts.patch_gradients(NanGradient(), image_set(), patch_of(), place())
    failing(artifacts.gradients_are_useful(gradients, None), "V3", "NaN or infinite")
    single = torch.ones(COUNT, 3, SIZE, SIZE)
    single[5, 0, 0, 0] = torch.inf
    failing(artifacts.gradients_are_useful(single, single), "V3", "NaN or infinite")


@pytest.mark.parametrize(("blind", "verdict"), [(0, "pass"), (5, "pass"), (6, "fail"), (100, "fail")])
def test_a_few_blind_images_are_tolerated(blind: int, verdict: str) -> None:
    gradients = torch.ones(100, 3, SIZE, SIZE)
    gradients[:blind] = 0
    check = artifacts.gradients_are_useful(gradients, None)
    assert check.verdict == verdict
    assert check.figures["zero_share"] == pytest.approx(blind / 100)


def test_opposite_gradients_show_in_the_cosine() -> None:
    gradients = torch.randn(50, 3, SIZE, SIZE, generator=draws(0))
    assert artifacts.gradients_are_useful(gradients, -gradients).figures["cosine_to_float"] == pytest.approx(-1)


@pytest.mark.parametrize(("classes", "images"), [(10, 1000), (1000, 1000), (2, 500), (10, 64)])
def test_networks_at_chance_are_caught(classes: int, images: int) -> None:
    generator = np.random.default_rng(classes)
    found = [
        artifacts.accuracy_is_above_chance(int(correct), images, classes)
        for correct in generator.binomial(images, 1 / classes, size=400)
    ]
    failing(artifacts.accuracy_is_above_chance(images // classes, images, classes), "V6", "ASR means nothing")
    # Luck exists, and far less of it than the 2.5 % of the interval: some skill above chance is asked for.
    assert sum(check.verdict == "fail" for check in found) >= 398


@pytest.mark.parametrize(("classes", "images", "accuracy"), [(10, 1000, 0.35), (1000, 1000, 0.4), (2, 500, 0.8)])
def test_networks_that_classify_raise_no_alarm(classes: int, images: int, accuracy: float) -> None:
    generator = np.random.default_rng(classes)
    for correct in generator.binomial(images, accuracy, size=200):
        check = artifacts.accuracy_is_above_chance(int(correct), images, classes)
        assert (check.id, check.verdict) == ("V6", "pass")


def test_accuracy_without_images_is_no_pass() -> None:
    failing(artifacts.accuracy_is_above_chance(0, 0, 10), "V6", "ASR means nothing")


def test_disjoint_parts_pass() -> None:
    parts = {name: image_set(seed) for seed, name in enumerate(("train", "calibration", "craft", "evaluation"))}
    check = artifacts.parts_are_disjoint(parts)
    assert (check.id, check.verdict, check.figures) == ("V9", "pass", {})


def test_an_image_in_two_parts_is_caught_by_content() -> None:
    train, evaluation = image_set(0), image_set(5)
    pixels = evaluation.pixels.clone()
    pixels[[3, 9]] = train.pixels[[60, 2]]  # under other names and with other labels
    leaking = ImageSet(pixels, evaluation.labels, evaluation.ids)
    check = artifacts.parts_are_disjoint({"train": train, "craft": image_set(7), "evaluation": leaking})
    failing(check, "V9", "2 images are in both train and evaluation")
    assert check.figures == {"train/evaluation": 2.0}


def test_every_pair_of_parts_is_reported() -> None:
    shared = image_set(0, 3)
    check = artifacts.parts_are_disjoint(
        {"train": shared, "calibration": shared, "craft": image_set(1), "evaluation": shared}
    )
    failing(check, "V9", "train and calibration")
    assert "train and evaluation" in check.message


def test_an_image_twice_in_one_part_is_no_leak() -> None:
    pixels = image_set(0).pixels.repeat(2, 1, 1, 1)
    doubled = ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), ())
    assert artifacts.parts_are_disjoint({"train": doubled, "evaluation": image_set(1)}).verdict == "pass"


def test_merging_keeps_the_worst_verdict_and_all_messages() -> None:
    merged = artifacts.merged(
        [
            Check(id="V10", verdict="pass"),
            Check(id="V1", verdict="pass", figures={"a": 1.0}),
            Check(id="V1", verdict="warn", message="flips", figures={"b": 2.0}),
            Check(id="V1", verdict="fail", message="area"),
            Check(id="V2", verdict="not-run", message="no control"),
            Check(id="V3", verdict="pass"),
            Check(id="V3", verdict="not-run"),
        ]
    )
    assert [check.id for check in merged] == ["V1", "V2", "V3", "V10"], "in numerical order"
    assert merged[0] == Check(id="V1", verdict="fail", message="flips; area", figures={"a": 1.0, "b": 2.0})
    assert merged[1].verdict == "not-run"
    assert merged[2].verdict == "pass"


def test_every_check_is_explained() -> None:
    from qpatchbench.evaluation.checks.explanations import EXPLANATIONS

    assert set(EXPLANATIONS) == {f"V{number}" for number in range(1, 18)}
    assert all(all(part.strip() for part in explanation) for explanation in EXPLANATIONS.values())


@pytest.mark.parametrize(
    ("attacked", "broken", "verdict"),
    [(100, 3, "pass"), (100, 20, "fail"), (0, 0, "not-run"), (10, 2, "pass"), (3, 3, "pass"), (40, 15, "fail")],
)
def test_a_search_that_finds_much_more_than_gradients_is_masking(attacked: int, broken: int, verdict: str) -> None:
    stages = (Stage("apgd", "gradient", 120, 120 - attacked), Stage("search", "scores", attacked, broken))
    check = artifacts.scores_find_nothing_more(stages)
    assert (check.id, check.verdict) == ("V13", verdict)
    if verdict == "fail":
        assert f"broke {broken} of 120 images after gradients had broken {120 - attacked}" in check.message


def test_stages_without_a_search_say_nothing_of_masking() -> None:
    assert artifacts.scores_find_nothing_more((Stage("apgd", "gradient", 9, 4),)).verdict == "not-run"
