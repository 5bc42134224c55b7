"""Quantizers, preprocessors, models and datasets that break a promise are told which one, and what to do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from qpatchbench.component import Component
from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.fake import Fake
from qpatchbench.errors import DataError, PluginError
from qpatchbench.models.cifar import CifarModel
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.ptq import Ptq
from qpatchbench.testing import checks_for
from qpatchbench.types import Bits

BITS = (Bits.parse(32), Bits.parse(4))


def caught(component: Component, check: str, message: str) -> None:
    (found,) = (each for each in checks_for(component) if each.name == check)
    with torch.random.fork_rng(devices=[]), pytest.raises(PluginError, match=message):
        found(component)


class Broken(Ptq):
    """Deploys honestly, then does something to the network."""

    flaw: str = ""

    def deploy(self, checkpoint: Checkpoint, bits: Bits, calibration: torch.Tensor) -> nn.Module:
        if self.flaw == "float":
            return super().deploy(checkpoint, BITS[0], calibration)
        if self.flaw == "checkpoint":
            next(iter(checkpoint.state.values())).add_(1e-3)
        network = super().deploy(checkpoint, bits, calibration)
        return QUANTIZER_FLAWS.get(self.flaw, _same)(network)


class Around(nn.Module):
    """A network and what happens to its inputs or outputs."""

    def __init__(self, network: nn.Module, change: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(self.network, images)


def _same(network: nn.Module) -> nn.Module:
    return network


def _shaken(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        network.head.weight += 1e-6  # type: ignore[union-attr, operator]  # of a TinyNet
    return network


QUANTIZER_FLAWS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "train": lambda network: network.train(),
    "learns": lambda network: network.requires_grad_(True),
    "shaken": _shaken,
    "blind": lambda network: Around(network, lambda inner, images: inner(images.detach())),
    "batch": lambda network: Around(network, lambda inner, images: inner(images / images.max())),
    "random": lambda network: Around(network, lambda inner, images: inner(images + 0.1 * torch.rand_like(images))),
}


@pytest.mark.parametrize(
    ("flaw", "check", "message"),
    [
        ("train", "it_is_frozen", r"eval mode at 32 bits; call eval\(\) before returning"),
        ("learns", "it_is_frozen", r"no parameter that learns at 32 bits; requires_grad_\(False\)"),
        ("float", "weights_and_activations_have_few_levels", "at most 16 distinct weights .* quantize every layer"),
        ("shaken", "float_is_the_float_network", "bit for bit; return deploy_float"),
        ("checkpoint", "the_same_checkpoint_gives_the_same_network", "the same network twice|the checkpoint as it was"),
        ("blind", "gradients_reach_the_image", "round with a straight-through estimator; found logits without a graph"),
        ("batch", "batches_do_not_matter", "alone as in a batch at 32 bits; take scales per image or fix them"),
        ("random", "randomness_is_declared", "or randomized: ClassVar.bool. = True; found other logits"),
        ("random", "no_global_generator_moves", "torch's global generator untouched"),
    ],
)
def test_quantizers(flaw: str, check: str, message: str) -> None:
    caught(Broken(name="broken", bits=BITS, flaw=flaw), check, f"^quantizer 'broken': expected .*{message}")


class Filter(Preprocessor):
    """Does `flaw` to the images."""

    name: str = "filter"
    flaw: str = ""

    def apply(
        self, images: torch.Tensor, state: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        changed: torch.Tensor = FILTERS[self.flaw](images, generator)
        return changed


class Noisy(Filter):
    """Declares randomness."""

    randomized: ClassVar[bool] = True


FILTERS: Mapping[str, Callable[[torch.Tensor, torch.Generator], Any]] = {
    "range": lambda images, _: images * 1.5 - 0.2,
    "crop": lambda images, _: images[..., :-1],
    "single": lambda images, _: images.float(),
    "writes": lambda images, _: images.mul_(0.5),
    "batch": lambda images, _: images / images.max().clamp(min=0.1),
    "draws": lambda images, generator: (images + 0.1 * torch.rand(images.shape, generator=generator)).clamp(0, 1),
    "wastes": lambda images, generator: [torch.rand(1, generator=generator), images][1],
    "global": lambda images, _: (images + 0.1 * torch.rand(images.shape)).clamp(0, 1),
    "rounds": lambda images, _: images.detach().round(),
    "flat": lambda images, _: images.round(),
    "": lambda images, _: images,
}


@pytest.mark.parametrize(
    ("component", "check", "message"),
    [
        (Filter(flaw="range"), "images_come_back", r"images in \[0, 1\]; clamp at the end; found \[-0.2"),
        (Filter(flaw="crop"), "images_come_back", r"images of shape \(8, 3, 32, 32\); found \(8, 3, 32, 31\)"),
        (Filter(flaw="single"), "double_precision_works", "float64 images from float64 images; found torch.float32"),
        (Filter(flaw="writes"), "inputs_are_left_alone", "the images as they were; copy before writing"),
        (Filter(flaw="batch"), "batches_do_not_matter", "take statistics per image"),
        (Filter(flaw="draws"), "randomness_is_declared", "or randomized: .* = True; found other images from another"),
        (Filter(flaw="wastes"), "randomness_is_declared", "or randomized: .* = True; found draws from it"),
        (Noisy(flaw=""), "randomness_is_declared", "or randomized: .* = False; found the same from four seeds"),
        (Noisy(flaw="global"), "randomness_is_declared", "draw from `generator` only"),
        (
            Noisy(flaw="global"),
            "no_global_generator_moves",
            "torch's global generator untouched; draw from `generator`",
        ),
        (
            Filter(flaw="rounds"),
            "its_gradient_is_useful",
            "or differentiable: .* = False; found images without a graph",
        ),
        (Filter(flaw="flat"), "its_gradient_is_useful", "or differentiable: .* = False; found zero everywhere"),
    ],
)
def test_preprocessors(component: Filter, check: str, message: str) -> None:
    caught(component, check, f"^preprocessor 'filter': expected .*{message}")


class Model(CifarModel):
    """A ResNet-20 with a flaw."""

    flaw: str = ""

    def build(self, num_classes: int, image_size: int) -> nn.Module:
        if self.flaw == "reseeds":
            torch.manual_seed(0)
        network = super().build(num_classes, image_size)
        return MODEL_FLAWS.get(self.flaw, _same)(network)


MODEL_FLAWS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "softmax": lambda network: nn.Sequential(network, nn.Softmax(dim=1)),
    "log": lambda network: nn.Sequential(network, nn.LogSoftmax(dim=1)),
    "raw": lambda network: network.get_submodule("backbone"),
    "eval": lambda network: network.eval(),
    "frozen": lambda network: network.requires_grad_(False) and nn.Sequential(network, nn.Linear(4, 4)),
}


@pytest.mark.parametrize(
    ("flaw", "check", "message"),
    [
        ("softmax", "it_answers_logits", "leave out the softmax; found probabilities or their logarithms"),
        ("log", "it_answers_logits", "leave out the softmax; found probabilities or their logarithms"),
        ("raw", "mean_and_deviation_are_inside", r"images normalised inside the network by mean \(0.4914"),
        ("eval", "modes_and_gradients_work", r"a network in training mode; do not call eval\(\) in build"),
        ("frozen", "modes_and_gradients_work", "parameters that learn; the harness freezes them"),
        ("reseeds", "the_seed_decides_the_weights", "do not call torch.manual_seed in build; found the same"),
    ],
)
def test_models(flaw: str, check: str, message: str) -> None:
    caught(Model(name="resnet20", flaw=flaw), check, f"^model 'resnet20': expected .*{message}")


class Images(Fake):
    """Synthetic images with a flaw."""

    flaw: str = ""
    image_size: int = 8

    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        if self.flaw == "silent" and not data_dir.joinpath("images").exists():
            raise DataError("no images")
        splits = super().load(data_dir, cache_dir, decoding, evaluation_images)
        return DATASET_FLAWS[self.flaw](splits) if self.flaw in DATASET_FLAWS else splits


DATASET_FLAWS: Mapping[str, Callable[[Splits], Splits]] = {
    "leak": lambda splits: replace(
        splits, evaluation=replace(splits.evaluation, pixels=splits.train.pixels[: len(splits.evaluation)])
    ),
    "overlap": lambda splits: replace(splits, craft=splits.evaluation),
    "labels": lambda splits: replace(splits, train=replace(splits.train, labels=splits.train.labels + 1)),
    "float": lambda splits: replace(splits, train=replace(splits.train, pixels=splits.train.pixels / 255)),
    "one class": lambda splits: replace(
        splits, evaluation=splits.evaluation.chosen(splits.evaluation.labels.clamp(max=1).eq(0).logical_not())
    ),
    "shuffled": lambda splits: replace(splits, train=splits.train.chosen(torch.randperm(len(splits.train)))),
}


@pytest.mark.parametrize(
    ("flaw", "check", "message"),
    [
        ("leak", "parts_are_disjoint", "no image in two parts; split by a hash of the content"),
        ("overlap", "parts_are_disjoint", "ids in one part only; found test/.* in craft and evaluation"),
        ("labels", "images_are_well_formed", r"train labels in 0..9; found 1..10"),
        ("float", "images_are_well_formed", "train pixels uint8, 0..255; found torch.float32"),
        ("one class", "classes_are_balanced", "deal them out class by class; found 0 to 20 per class"),
        ("shuffled", "it_loads_the_same_twice", "torch's global generator untouched"),
        ("silent", "missing_files_are_named", "an error that names the folder it looked in, .*; found no images"),
    ],
)
def test_datasets(flaw: str, check: str, message: str) -> None:
    caught(Images(flaw=flaw), check, f"^dataset 'fake': expected .*{message}")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ONES = torch.ones(3)", "torch.ones at import"),
        ("from torch import nn", "torch.nn at import"),
        ("import torch.nn", "No module named 'torch.nn'"),
    ],
)
def test_torch_at_import_is_found_with_its_line(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "eager_plugin_under_test.py"
    path.write_text(
        f"import torch\n\nfrom qpatchbench.defenses.none import NoDefense\n\n{line}\n\n\nclass Eager(NoDefense):\n"
        '    """Plain (somebody 2024)."""\n'
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    message = rf"a module that only says `import torch` and uses it inside functions; found .*{found}.*\.py:5\)"
    caught(module.Eager(name="eager"), "importing_it_needs_no_torch", message)
    assert sys.modules["torch"] is torch
    del sys.modules[path.stem]
