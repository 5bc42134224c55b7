"""Components that do not fit the images, the classes, the batches or the bits of their suite."""

from __future__ import annotations

from collections.abc import Iterator

from qpatchbench.attacks.base import Attack
from qpatchbench.component import Component
from qpatchbench.errors import QPatchBenchError
from qpatchbench.suite.file.schema import COMPONENT_PLACES, Suite
from qpatchbench.suite.file.source import KeyPath
from qpatchbench.types import Announced, Size


def misfits(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Yield (path in the file, problem) for everything that would fail once images are there, whatever they show."""
    dataset = suite.dataset
    known = Announced(dataset.side, dataset.num_classes, dataset.calibration_images, dataset.craft_images)
    for path, component in _components(suite):
        for field, problem in component.misfits(known):
            yield (*path, field) if field else path, problem
    yield from _attacks(suite)
    yield from _sizes(suite)
    yield from _batches(suite)
    yield from _bit_groups(suite)


def _components(suite: Suite) -> Iterator[tuple[KeyPath, Component]]:
    for place, (_, is_list) in COMPONENT_PLACES.items():
        holder: object = suite
        for part in place:
            holder = getattr(holder, part, None)
        found = holder if is_list and isinstance(holder, tuple) else (holder,)
        for index, component in enumerate(found):
            if isinstance(component, Component):
                yield (*place, index) if is_list else place, component


def _attacks(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    side, classes = suite.dataset.side, suite.dataset.num_classes
    places: list[tuple[KeyPath, tuple[Attack, ...]]] = [(("attacks",), suite.attacks)]
    if suite.pool is not None:
        places += [(("pool", "seen"), suite.pool.seen), (("pool", "unseen"), suite.pool.unseen)]
    for section, attacks in places:
        for index, attack in enumerate(attacks):
            if attack.size.side(side) > side:
                yield (*section, index, "size"), too_large(attack.size, suite)
            for number, target in enumerate(attack.targets if isinstance(attack.targets, tuple) else ()):
                if not 0 <= target < classes:
                    yield (
                        (*section, index, "targets", number),
                        f"expected class ids in 0..{classes - 1} of {suite.dataset.title}, found {target}",
                    )


def _sizes(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Patches that defenses and preprocessors speak of; those of attacks are told with their attack."""
    side = suite.dataset.side
    for section, components in (("defenses", suite.defenses), ("preprocessors", suite.preprocessors)):
        for index, component in enumerate(components):
            size = getattr(component, "size", None)
            if isinstance(size, Size) and size.side(side) > side:
                yield (section, index, "size"), too_large(size, suite)


def too_large(size: Size, suite: Suite) -> str:
    """The problem of a patch that its images cannot hold."""
    side = suite.dataset.side
    return f"expected a patch that fits into the {side}x{side} images of {suite.dataset.title}, found {size}"


def _batches(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    section, settings = ("training", suite.training) if suite.finetuning is None else ("finetuning", suite.finetuning)
    if not settings.epochs:
        return
    for defense in suite.defenses:
        for field in ("batch_size", "images_per_epoch"):
            images = getattr(settings, field)
            if images is not None and images < defense.least_batch:
                yield (
                    (section, field),
                    f"expected at least {defense.least_batch} images, since {defense.title} attacks a part of every "
                    f"batch, found {images}",
                )


def _bit_groups(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    trained = next((quantizer for quantizer in suite.quantizers if quantizer.trained), None)
    for index, defense in enumerate(suite.defenses):
        if defense.quantization_aware and trained is not None:
            try:
                defense.bit_groups(trained.bits)
            except QPatchBenchError as error:
                yield ("defenses", index), str(error)
