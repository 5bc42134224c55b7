"""The networks of a suite, built once before any work: weights that do not fit end a run before it begins."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch

from qpatchbench.errors import QPatchBenchError, SuiteError
from qpatchbench.evaluation.maps.feature_maps import first_convolutions
from qpatchbench.evaluation.maps.grad_cam import cam_layer
from qpatchbench.models.base import ModelSource
from qpatchbench.models.weights import PRETRAINED, TRAIN
from qpatchbench.quantizers.inspection.taps import Taps
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import KeyPath, Source

GREY = 0.5


def require_networks(suite: Suite, source: Source, *, fetch: bool = False) -> None:
    """Build every model with the weights it starts from, and show it a grey image.

    Args:
        suite: a coherent suite.
        source: tells errors where they stand.
        fetch: whether to read published weights too, downloading them where they are not at hand.

    Raises:
        SuiteError: weights do not fit their network, or a network does not fit the images, the classes or an attack;
            one line each.
    """
    problems = [source.problem(path, text).text for path, text in _problems(suite, fetch=fetch)]
    if problems:
        raise SuiteError(problems)


def _problems(suite: Suite, *, fetch: bool) -> Iterator[tuple[KeyPath, str]]:
    side, classes = suite.dataset.side, suite.dataset.num_classes
    facts = f"{suite.dataset.title} has {classes} classes and images of {side}x{side} pixels"
    image = torch.full((1, 3, side, side), GREY)
    for index, model in enumerate(suite.models):
        place: KeyPath = ("models", index, "file" if model.ready else "weights")
        if model.weights == TRAIN:
            place = ("models", index)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                network = _built(model, classes, side, fetch=fetch).eval()
                logits = network(image)
        except QPatchBenchError as error:
            yield place, f"{_first_line(error)}; {facts}"
            continue
        except (
            Exception
        ) as error:  # no pixels left, or other numbers of them; a network of a user's own may raise anything
            yield ("models", index), f"{model.title} does not work on the images: {_first_line(error)}; {facts}"
            continue
        if tuple(logits.shape) != (1, classes):
            found = "x".join(map(str, logits.shape))
            yield ("models", index), f"expected logits 1x{classes} for one image, found {found}; {facts}"
            continue
        if model.ready:
            continue  # nobody trains it or looks inside
        yield from _lone_images(suite, model, network, image)
        for path, requirement in _requirements(suite):
            try:
                requirement(network, image)
            except QPatchBenchError as error:
                yield path, f"on {model.title}: {_first_line(error)}"


def _lone_images(
    suite: Suite, model: ModelSource, network: torch.nn.Module, image: torch.Tensor
) -> Iterator[tuple[KeyPath, str]]:
    """Whether the network can be trained where it sees a single image at a time, in part of a batch or held out."""
    small = [(path, found, least) for path, found, least in _fewest(suite) if found < least]
    if not small:
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy.deepcopy(network).train()(image)
    except ValueError as error:  # BatchNorm has no variance of one value
        for path, found, least in small:
            yield (
                path,
                f"expected at least {least} images to train {model.title} on {image.shape[-1]} pixels, found "
                f"{found}: {_first_line(error)}",
            )


def _fewest(suite: Suite) -> Iterator[tuple[KeyPath, int, int]]:
    """How many images a network in training sees at once, and how many it needs lest one be alone."""
    parts = max(1 if defense.least_batch == 1 else 2 for defense in suite.defenses)
    schedules = [("training", suite.training, parts)]
    if suite.finetuning is not None:
        schedules = [("training", suite.training, 1), ("finetuning", suite.finetuning, parts)]
    for section, settings, least in schedules:
        if settings.epochs:
            yield (section, "batch_size"), settings.batch_size, 2 * least
            if settings.images_per_epoch is not None:
                yield (section, "images_per_epoch"), settings.images_per_epoch, 2 * least
    if any(defense.quantization_aware for defense in suite.defenses):
        yield ("dataset", "calibration_images"), suite.dataset.calibration_images, 2


def _built(model: ModelSource, classes: int, side: int, *, fetch: bool) -> torch.nn.Module:
    if model.weights == PRETRAINED and not fetch:
        model.require_published(classes)
        return model.build(classes, side)
    return model.load(classes, side)


def _requirements(suite: Suite) -> Iterator[tuple[KeyPath, Callable[[torch.nn.Module, torch.Tensor], object]]]:
    """What has to be found in every network: what attacks and defenses look at, and what is to be analysed."""
    for index, attack in enumerate(suite.attacks):
        yield ("attacks", index), attack.require_network
    for attack in suite.sized_attacks():
        if attack not in suite.attacks:
            yield ("sweep", "sizes"), attack.require_network
    for index, attack in enumerate(suite.pool.unseen if suite.pool is not None else ()):
        yield ("pool", "unseen", index), attack.require_network
    for index, defense in enumerate(suite.defenses):
        if defense.compared_layers is not None:
            yield ("defenses", index), partial(_compared, defense.compared_layers)
    if suite.analysis.similarity:
        yield ("analysis", "similarity"), lambda network, image: Taps(network).early_layers(image)
    if suite.analysis.maps:
        yield ("analysis", "maps"), first_convolutions
        yield ("analysis", "maps"), cam_layer


def _compared(layers: tuple[str, ...], network: torch.nn.Module, image: torch.Tensor) -> None:
    taps = Taps(network)
    taps.observed(network, image, layers or taps.early_layers(image))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__
