"""A network that weights, images or attacks do not fit is one line before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.errors import SuiteError
from qpatchbench.models.cifar import CifarModel

TRAINING = "training: {epochs: 1, batch_size: 16}"
FACTS = "; fake has 3 classes and images of 8x8 pixels"
SUITE = """\
suite: small
dataset: {name: fake, image_size: 8, classes: 3, train_pool: 60, test_pool: 12, calibration_images: 8, craft_images: 8}
models: [@MODEL]
training: {epochs: 1, batch_size: 16}
defenses: [none]
quantizers: [{name: ptq, bits: [32, 4]}]
attacks: [{name: lavan, size: 2, steps: 1, batch_size: 4}@ATTACK]
"""


def refused(tmp_path: Path, command: str, model: str, attack: str = "", training: str = TRAINING) -> list[str]:
    """The problems, as `plan` or `run` tells them; without the name of the file."""
    path = tmp_path / "small.yaml"
    text = SUITE.replace("@MODEL", model).replace("@ATTACK", attack and f", {attack}")
    path.write_text(text.replace(TRAINING, training))
    options = [] if command == "plan" else ["--output", str(tmp_path / "run"), "--display", "none"]
    environment = {"QPATCHBENCH_CACHE": str(tmp_path / "cache"), "QPATCHBENCH_DATA": None}
    result = CliRunner().invoke(cli, [command, str(path), *options], standalone_mode=False, env=environment)
    assert isinstance(result.exception, SuiteError), result.output
    assert not (tmp_path / "cache" / "train").exists()
    return [problem.removeprefix(str(path)) for problem in result.exception.problems]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a ResNet-20 that answers five classes."""
    path = tmp_path / "five.pt"
    torch.save(CifarModel(name="resnet20").build(5, 8).state_dict(), path)
    return path


@pytest.mark.parametrize("command", ["plan", "run"])
def test_weights_for_other_classes(command: str, weights: Path, tmp_path: Path) -> None:
    (found,) = refused(tmp_path, command, f"{{name: resnet20, weights: {weights}}}")
    assert found == (
        f":3:36: models[0].weights: model 'resnet20', weights {weights}: the tensors do not fit: "
        f"backbone.linear.weight expected 3x64 found 5x64 (and 1 more){FACTS}"
    )


def test_weights_of_another_architecture(weights: Path, tmp_path: Path) -> None:
    (found,) = refused(tmp_path, "plan", f"{{name: vgg16, weights: {weights}}}")
    assert found == (
        f":3:33: models[0].weights: model 'vgg16', weights {weights}: the tensors do not fit: "
        f"features.0.weight 64x3x3x3 is missing (and 195 more){FACTS}"
    )


@pytest.mark.parametrize("command", ["plan", "run"])
def test_published_weights_for_other_classes(command: str, tmp_path: Path) -> None:
    (found,) = refused(tmp_path, command, "{name: timm/resnet18, weights: pretrained}")
    assert "timm's weights answer 1000 classes, the dataset has 3. Use weights: train, or a file" in found


def test_every_model_that_does_not_fit_is_told(weights: Path, tmp_path: Path) -> None:
    models = f"{{name: resnet20, weights: {weights}}}, {{name: resnet32, weights: {weights}}}, vgg16"
    found = refused(tmp_path, "run", models)
    assert [problem.split(": ")[1] for problem in found] == ["models[0].weights", "models[1].weights"]


def test_images_too_small_for_the_network(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, "plan", "timm/vgg11")
    assert found.startswith(":3:10: models[0]: model 'timm/vgg11' cannot work on images of 8 pixels (")
    assert found.endswith(FACTS)


def test_an_attack_on_tokens_that_the_network_has_not(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, "plan", "resnet20", "{name: patch_fool, size: 4}")
    assert found == (
        ":7:60: attacks[1]: on resnet20: expected a vision transformer whose tokens attend to all others, such as "
        "deit_b or timm/vit_tiny_patch16_224, found CifarResNet: no self-attention was seen at work. patch_apgd works "
        "on any network"
    )


def test_an_attack_on_other_tokens(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, "plan", "{name: timm/test_vit, input_size: 32}", "{name: patch_fool, size: 3}")
    assert found == (
        ":7:60: attacks[1]: on timm/test_vit: expected a patch of whole tokens, 4 x 4 pixels each on images of 8, "
        "found a patch of 3 x 3; use size 4"
    )


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("training: {epochs: 1, batch_size: 1}", "training.batch_size"),
        ("training: {epochs: 1, batch_size: 16, images_per_epoch: 1}", "training.images_per_epoch"),
        ("training: {epochs: 1, batch_size: 16}\nfinetuning: {epochs: 1, batch_size: 1}", "finetuning.batch_size"),
    ],
)
def test_a_lone_image_that_a_network_cannot_be_trained_on(section: str, problem: str, tmp_path: Path) -> None:
    (found,) = refused(tmp_path, "plan", "vgg16", training=section)
    assert found.partition(": ")[2].startswith(
        f"{problem}: expected at least 2 images to train vgg16 on 8 pixels, found 1: Expected more than 1 value"
    )


@pytest.mark.parametrize("wanted", ["similarity: true", "maps: 1"])
def test_an_analysis_of_maps_that_a_network_does_not_hand_on(wanted: str, tmp_path: Path) -> None:
    model = f"{{name: timm/test_vit, input_size: 32}}]\nanalysis: {{{wanted}, images: 2}}\nseeds: [0"
    found = refused(tmp_path, "plan", model)
    assert all("on timm/test_vit: found no" in problem and "hands on tokens" in problem for problem in found)
    assert {problem.split(": ")[1] for problem in found} == {f"analysis.{wanted.partition(':')[0]}"}
