"""The timm family: names, sizes and published weights, without a network connection."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from qpatchbench.component import create
from qpatchbench.errors import QPatchBenchError, UnknownNameError, WeightsError
from qpatchbench.models import CATALOGUE
from qpatchbench.models.classifier import ImageClassifier
from qpatchbench.models.timm_models import ALIASES, TimmModel
from qpatchbench.registry import MODELS

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
