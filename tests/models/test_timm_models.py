"""The timm family: names, sizes and published weights, without a network connection."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from qpatchbench.component import create
from qpatchbench.data import fitting
from qpatchbench.data.fitting import resized_and_cropped
from qpatchbench.errors import QPatchBenchError, UnknownNameError, WeightsError
from qpatchbench.models import CATALOGUE, timm_models
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.models.timm_models import ALIASES, CROP_MODES, INTERPOLATIONS, TimmModel
from qpatchbench.registry import MODELS
from qpatchbench.suite.jobs.decoding import decoding_of

SMALL = "timm/test_resnet"  # timm's own test network, 160 pixels


def test_every_catalogued_name_and_alias_is_one_that_timm_lists() -> None:
    listed = set(timm.list_models())
    names = [name for name, entry in CATALOGUE.items() if entry.target.endswith("TimmModel") and "<" not in name]
    assert {TimmModel(name=name).architecture for name in names} <= listed
    assert set(ALIASES) <= set(names)
    assert TimmModel(name="swin_s").architecture == "swin_small_patch4_window7_224"
    assert TimmModel(name="deit_b").architecture == "deit_base_patch16_224"


def test_any_other_timm_name_works_with_its_prefix_and_tag() -> None:
    model = create(MODELS, {"name": "timm/resnet50.a1_in1k"})
    assert isinstance(model, TimmModel)
    assert model.architecture == "resnet50.a1_in1k"
    config = timm.get_pretrained_cfg("resnet50.a1_in1k")
    assert config is not None
    assert model.preprocessing(224).mean == config.mean


def test_an_unknown_timm_name_is_refused_with_near_misses() -> None:
    with pytest.raises(UnknownNameError, match="swin_smal_patch4_window7_224") as caught:
        create(MODELS, {"name": "timm/swin_smal_patch4_window7_224"})
    assert "Did you mean: swin_small_patch4_window7_224?" in str(caught.value)
    assert str(caught.value).count(",") < 10  # near misses, not all thousand
    with pytest.raises(UnknownNameError):
        TimmModel(name="resnet_18").preprocessing(224)


@pytest.mark.parametrize("name", ["timm/hf-hub:owner/model", "timm/local-dir:somewhere", "timm/", "timm/<name>"])
def test_names_that_would_make_timm_fetch_or_read_something_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError):
        create(MODELS, {"name": name})


def test_transformers_of_fixed_size_resize_inside_and_convolutions_do_not() -> None:
    assert TimmModel(name="deit_b").preprocessing(32).image_size == 224
    assert TimmModel(name="swin_s").preprocessing(300).image_size == 224
    assert TimmModel(name="resnet18").preprocessing(32).image_size == 32
    assert TimmModel(name="inception_v3").preprocessing(299).image_size == 299

    network = TimmModel(name="timm/test_vit").build(4, 32).eval()
    assert isinstance(network, ImageClassifier)
    assert network.image_size == 160
    seen: list[torch.Size] = []
    network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert seen == [torch.Size((2, 3, 160, 160))]


def test_images_too_small_for_an_architecture_are_refused_when_it_is_built() -> None:
    with pytest.raises(QPatchBenchError, match="inception_v3.*32 pixels.*its own size is 299"):
        TimmModel(name="inception_v3").build(10, 32)


def test_trying_a_small_size_leaves_the_network_in_training_mode_and_untouched() -> None:
    network = TimmModel(name="resnet18").build(4, 32)
    assert all(module.training for module in network.modules())
    counters = [value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counters
    assert not any(bool(counter) for counter in counters)


def test_inception_has_no_auxiliary_classifier() -> None:
    with torch.device("meta"):
        network = TimmModel(name="inception_v3").build(1000, 299)
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 1
    # Szegedy et al. 2016 as released: 27.2 million with, 23.8 million without the auxiliary classifier.
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == 23.8


def test_published_weights_for_another_number_of_classes_are_refused_before_anything_is_fetched() -> None:
    with pytest.raises(WeightsError, match="answer 1000 classes, the dataset has 10.*train, or a file"):
        TimmModel(name="resnet18", weights="pretrained").load(10, 224)


def test_published_weights_are_fetched_by_timm_and_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model
    published = create_model("test_resnet", pretrained=False)
    calls: list[str] = []

    def fake(name: str, *, pretrained: bool, num_classes: int = 1000) -> nn.Module:
        if not pretrained:
            return create_model(name, pretrained=False, num_classes=num_classes)
        calls.append(name)
        return published

    monkeypatch.setattr(timm, "create_model", fake)
    network = TimmModel(name=SMALL, weights="pretrained").load(1000, 160)
    assert calls == ["test_resnet"]
    assert isinstance(network, ImageClassifier)
    loaded, expected = network.backbone.state_dict(), published.state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_weights_that_cannot_be_fetched_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TimmModel(name=SMALL, weights="pretrained")

    def offline(name: str, **arguments: object) -> nn.Module:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"could not load test_resnet \(OSError: no route.*package:NAME/FILE"):
        model.pretrained_tensors(1000)


# One network of every crop mode and interpolation that timm's published networks are evaluated with.
EVALUATED = (
    "resnet18.a1_in1k",  # bicubic, center
    "inception_v3.tv_in1k",  # bicubic, center 0.875
    "tf_efficientnet_lite0.in1k",
    "mobilenetv3_large_100.ra_in1k",  # bicubic, center
    "vit_base_patch16_clip_224.openai",  # a mean of its own
    "convnext_tiny.in12k_ft_in1k_384",  # squash
    "deepseek_vit_412m.deepseek_v4_1_flash",  # border
)


def timms_own(architecture: str) -> dict[str, Any]:
    """How timm itself evaluates an architecture."""
    config: Any = timm.get_pretrained_cfg(architecture)
    found: dict[str, Any] = resolve_data_config(pretrained_cfg=config.to_dict())  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("architecture", EVALUATED)
@pytest.mark.parametrize("size", [(333, 500), (500, 333)], ids=str)
def test_image_files_reach_a_network_as_timm_evaluates_it(architecture: str, size: tuple[int, int]) -> None:
    """Bit for bit, on an image that is not square."""
    config = timm.get_pretrained_cfg(architecture)
    assert config is not None
    model = TimmModel(name=f"timm/{architecture}")
    side = config.input_size[-1]
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    evaluated = timms_own(architecture)
    transform = create_transform(**evaluated, normalize=False)
    wanted = decoding_of(model, side)
    fit = resized_and_cropped(side, wanted.crop_fraction, wanted.interpolation, wanted.crop_mode, wanted.fill)
    found = np.asarray(fit(Image.fromarray(pixels))).transpose(2, 0, 1)
    np.testing.assert_array_equal(found, np.asarray(transform(Image.fromarray(pixels))))
    assert model.preprocessing(side).mean == tuple(evaluated["mean"])
    assert model.preprocessing(side).std == tuple(evaluated["std"])


def test_every_crop_mode_and_interpolation_of_timm_is_tried_above() -> None:
    configs = [timm.get_pretrained_cfg(name) for name in timm.list_models()]
    tried = [timm.get_pretrained_cfg(name) for name in EVALUATED]
    asked = {config.crop_mode for config in configs if config is not None}
    assert asked == {config.crop_mode for config in tried if config is not None} == set(CROP_MODES)
    assert {config.interpolation for config in configs if config is not None} <= set(INTERPOLATIONS)


def test_crop_modes_and_interpolations_are_those_that_images_can_be_fitted_with() -> None:
    assert timm_models.CROP_MODES == fitting.CROP_MODES
    assert timm_models.INTERPOLATIONS == fitting.INTERPOLATIONS


def configured(monkeypatch: pytest.MonkeyPatch, **fields: object) -> TimmModel:
    config = timm.get_pretrained_cfg("resnet18")
    assert config is not None
    changed = dataclasses.replace(config, **fields)  # type: ignore[arg-type]  # values of many types
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: changed)
    return TimmModel(name="resnet18")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"interpolation": "random"},
            "timm evaluates it with interpolation 'random', which is not done here: expected one of nearest, bilinear, "
            "bicubic, box, hamming, lanczos",
        ),
        (
            {"crop_mode": "squish"},
            "timm evaluates it with crop_mode 'squish', which is not done here: expected one of center, squash, border",
        ),
        ({"crop_pct": 1.15}, "expected a crop_pct in (0, 1], found 1.15"),
        ({"input_size": (3, 1024, 768)}, "expected a network for square RGB images, found one for 3x1024x768"),
        ({"input_size": (1, 32, 32)}, "expected a network for square RGB images, found one for 1x32x32"),
        ({"mean": (0.5, 0.5)}, "expected 3 finite values as mean, found (0.5, 0.5)"),
        ({"std": (0.5, 0.5, 0.0)}, "expected 3 finite values as std, found (0.5, 0.5, 0.0)"),
    ],
)
def test_what_is_not_done_here_is_refused(
    fields: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QPatchBenchError) as caught:
        configured(monkeypatch, **fields).preprocessing(224)
    assert str(caught.value) == f"model 'resnet18': {message}"


def test_what_a_configuration_leaves_out_is_filled_in_as_timm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = configured(monkeypatch, interpolation="", crop_mode="", crop_pct=None, mean=(0.5,), std=(0.25,))
    found = model.preprocessing(224)
    assert (found.interpolation, found.crop_mode, found.crop_fraction) == ("bicubic", "center", 0.875)
    assert (found.mean, found.std) == ((0.5,) * 3, (0.25,) * 3)


def test_the_size_that_timm_tests_at_has_a_crop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"input_size": (3, 224, 224), "crop_pct": 0.9, "test_input_size": (3, 288, 288), "test_crop_pct": 1.0}
    model = configured(monkeypatch, **fields)
    assert [model.preprocessing(side).crop_fraction for side in (224, 256, 288)] == [0.9, 0.9, 1.0]
