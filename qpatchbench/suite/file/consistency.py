"""Parts of a suite that do not go together, which no single field can tell.

Reads no data and no weights.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Iterator

from qpatchbench.suite.file.half_precision import half_precision_problems
from qpatchbench.suite.file.misfits import misfits, too_large
from qpatchbench.suite.file.ready_models import ready_models
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import KeyPath
from qpatchbench.types import FLOAT, Bits, Written

UNDEFENDED = "none"
BARE = "none"  # the preprocessor that leaves a network as it is


def incoherences(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Yield (path in the file, problem) for every contradiction."""
    yield from _repeated_titles(suite)
    yield from misfits(suite)
    yield from _deployments(suite)
    yield from _runtime(suite)
    yield from _sweep(suite)
    yield from half_precision_problems(suite)
    yield from _pool(suite)
    yield from _borrowed(suite)
    yield from ready_models(suite)
    yield from _sources(suite)
    yield from _several_sources(suite)
    yield from _analysis(suite)
    yield from _filters(suite)


def _analysis(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    titles = [defense.title for defense in suite.defenses]
    if suite.analysis.costs is not None and suite.analysis.costs not in titles:
        close = difflib.get_close_matches(suite.analysis.costs, titles, n=1)
        hint = f". Did you mean: {close[0]}?" if close else ""
        yield (
            ("analysis", "costs"),
            f"expected a defense of this suite, {', '.join(titles)}, found {suite.analysis.costs!r}{hint}",
        )
    if suite.analysis.fewer_bits and suite.analysis.costs is None:
        yield (
            ("analysis", "fewer_bits"),
            f"expected costs beside it, the defense that times are relative to, for example costs: {titles[0]}",
        )
    if suite.analysis.maps > suite.analysis.images:
        yield (
            ("analysis", "maps"),
            f"expected at most as many as analysis.images, {suite.analysis.images}, found {suite.analysis.maps}",
        )
    if suite.analysis.maps and importlib.util.find_spec("captum") is None:
        yield ("analysis", "maps"), "Grad-CAM needs the library captum, which is not installed: pip install captum"


def _repeated_titles(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    for section, titles in (
        ("models", [model.title for model in suite.models]),
        ("defenses", [defense.title for defense in suite.defenses]),
        ("quantizers", [quantizer.mode for quantizer in suite.quantizers]),
        ("preprocessors", [preprocessor.title for preprocessor in suite.preprocessors]),
        ("attacks", [f"{attack.title}, {attack.size}" for attack in suite.attacks]),
        *(
            (("pool", part), [f"{attack.title}, {attack.size}" for attack in getattr(suite.pool, part)])
            for part in ("seen", "unseen")
            if suite.pool is not None
        ),
    ):
        for index, title in enumerate(titles):
            if titles.index(title) < index:
                place = section if isinstance(section, tuple) else (section,)
                yield (*place, index), f"expected distinct entries, found {title!r} twice; tell them apart with label"
    for index, seed in enumerate(suite.seeds):
        if seed in suite.seeds[:index]:
            yield ("seeds", index), f"expected distinct seeds, found {seed} again"
    for path, values in (
        (("transfer", "sources"), suite.transfer.sources),
        (("sweep", "sizes"), suite.sweep.sizes),
        (("sweep", "shifts"), suite.sweep.shifts),
        (("sweep", "rotations"), suite.sweep.rotations),
        *(
            ((section, index, key), wanted if isinstance(wanted := getattr(item, key), tuple) else ())
            for section in ("include", "exclude")
            for index, item in enumerate(getattr(suite, section))
            for key in type(item).model_fields
        ),
    ):
        for index, value in enumerate(values):
            if value in values[:index]:
                yield (*path, index), f"expected distinct entries, found {_written(value)} again"


def _written(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value.plain() if isinstance(value, Written) else value)


def _pool(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    for index, defense in enumerate(suite.defenses):
        if defense.wants_pool and suite.pool is None:
            yield (
                ("defenses", index),
                f"{defense.title} trains on patches made beforehand: add pool: {{seen: [{{name: lavan, size: 6}}]}}",
            )
    if suite.pool is None:
        return
    seen, unseen = suite.pool.seen, suite.pool.unseen
    for split, attacks in (("seen", seen), ("unseen", unseen)):
        for index, attack in enumerate(attacks):
            if attack.sources == "several" or attack.covers != "square" or attack.external:
                yield ("pool", split, index), f"expected a patch attack on one network, found {attack.title}"
            if split == "seen" and attack.kind != "universal":
                yield (
                    ("pool", "seen", index),
                    f"expected a universal attack to train on, found {attack.title}, which makes one patch per image",
                )
    quantizer = suite.pool.unseen_quantizer
    if unseen and quantizer is None:
        yield ("pool", "unseen"), "expected unseen_quantizer beside it, for example {name: ptq, bits: [4]}"
    if quantizer is not None and quantizer.trained:
        yield (
            ("pool", "unseen_quantizer"),
            f"expected a quantizer that needs no training, for the undefended network, found {quantizer.mode}",
        )
    side = suite.dataset.side
    for index, attack in enumerate(unseen):
        if attack.name in {other.name for other in seen}:
            yield ("pool", "unseen", index), f"expected an attack that is not among the seen ones, found {attack.name}"
        if attack.size.side(side) in {other.size.side(side) for other in seen}:
            yield ("pool", "unseen", index), f"expected a size that no seen patch has, found {attack.size}"
    if FLOAT in suite.pool.unseen_bits:
        yield ("pool", "unseen_quantizer", "bits"), "expected bits below 32, at which the seen patches are crafted"


def _sweep(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    for index, size in enumerate(suite.sweep.sizes):
        if size.side(suite.dataset.side) > suite.dataset.side:
            yield ("sweep", "sizes", index), too_large(size, suite)
    patches = [attack for attack in suite.attacks if attack.covers == "square"]
    for index, shift in enumerate(suite.sweep.shifts):
        if not any(shift):
            yield ("sweep", "shifts", index), "expected a shift that moves patches, found none in either direction"
            continue
        for attack in patches:
            # Patches wrap around, so that a longer shift is a shorter one under another name, or none.
            places = suite.dataset.side - attack.size.side(suite.dataset.side) + 1
            if any(abs(pixels) >= max(places, 1) for pixels in shift if pixels):
                yield (
                    ("sweep", "shifts", index),
                    f"expected fewer pixels than the {max(places, 0)} places that {attack.title}, {attack.size}, has "
                    f"on {suite.dataset.side} pixels, since patches wrap around; found {', '.join(map(str, shift))}",
                )
                break
    for index, angle in enumerate(suite.sweep.rotations):
        if math.isfinite(angle) and not 0 < abs(angle) < 360:
            yield ("sweep", "rotations", index), f"expected an angle that turns, between -360 and 360, found {angle:g}"


def _several_sources(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    together = {"ensemble", "other-models"} & set(suite.transfer.sources)
    widths = max(len({FLOAT, *quantizer.bits}) for quantizer in suite.quantizers)
    for index, source in enumerate(suite.transfer.sources):
        if source == "ensemble" and widths < 2:
            yield ("transfer", "sources", index), "an ensemble needs a quantizer with another bit-width than 32"
        if source == "other-models" and sum(model.ready is None for model in suite.models) < 3:
            yield (
                ("transfer", "sources", index),
                f"other-models crafts on at least two models beside the target: expected 3 models, "
                f"found {len(suite.models)}",
            )
        if source in together and all(attack.sources == "one" for attack in suite.attacks):
            yield (
                ("transfer", "sources", index),
                f"no attack of the suite can be crafted on several networks at once, as {source} asks",
            )
    for index, attack in enumerate(suite.attacks):
        if attack.sources == "several" and not together:
            yield (
                ("attacks", index),
                f"{attack.title} is crafted on several networks at once: add ensemble to transfer.sources",
            )


def _deployments(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    trained = [quantizer for quantizer in suite.quantizers if quantizer.trained]
    for number, defense in enumerate(suite.defenses):
        if defense.quantization_aware and not trained:
            yield (
                ("defenses", number),
                f"{defense.title} trains quantizers: list a quantizer that it can train, for example qat",
            )
        for index, quantizer in enumerate(suite.quantizers):
            kept = suite.keeps(defense=defense.title, quantizer=names_of(quantizer))
            if quantizer.wants_trained and not defense.quantization_aware and kept:
                yield (
                    ("quantizers", index),
                    f"{quantizer.mode} deploys trained quantizers, and the defense {defense.title!r} trains none: "
                    f"add exclude: [{{defense: {defense.title}, quantizer: {quantizer.mode}}}], or use ptq",
                )
            if (
                defense.quantization_aware
                and not quantizer.wants_trained
                and trained
                and kept
                and FLOAT not in trained[0].bits
            ):
                yield (
                    ("quantizers", index),
                    f"{quantizer.mode} starts from the 32-bit weights of {defense.title}: "
                    f"add 32 to the bits of {trained[0].mode}",
                )


def _runtime(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    if suite.deployment is None:
        return
    for library in ("onnx", "onnxscript", suite.deployment):
        if importlib.util.find_spec(library) is None:
            yield (
                ("deployment",),
                f"{suite.deployment} needs the library {library}, which is not installed: "
                "pip install 'qpatchbench[deploy]'",
            )


def _borrowed(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Quantizers that deploy what another one trains need its bit-widths."""
    trained = next((quantizer for quantizer in suite.quantizers if quantizer.trained), None)
    for index, quantizer in enumerate(suite.quantizers):
        if not quantizer.wants_trained or quantizer.trained:
            continue
        if trained is None:
            yield ("quantizers", index), f"{quantizer.mode} deploys what another quantizer trains: list qat before it"
            continue
        for number, bits in enumerate(quantizer.bits):
            if bits not in trained.bits:
                offered = ", ".join(map(str, trained.bits))
                yield (
                    ("quantizers", index, "bits", number),
                    f"{quantizer.mode} deploys what {trained.mode} trains: expected one of {offered}, found {bits}",
                )


def _sources(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    for index, source in enumerate(suite.transfer.sources):
        if isinstance(source, Bits) and source != FLOAT and not any(source in q.bits for q in suite.quantizers):
            offered = sorted({str(bits) for quantizer in suite.quantizers for bits in quantizer.bits})
            yield (
                ("transfer", "sources", index),
                f"no quantizer of the suite has {source} bits; they have {', '.join(offered)}",
            )
        if source == FLOAT:
            for number, quantizer in enumerate(suite.quantizers):
                if quantizer.trained and FLOAT not in quantizer.bits:
                    yield (
                        ("quantizers", number, "bits"),
                        f"patches are to be crafted at 32 bits (transfer.sources), but {quantizer.mode} "
                        "is not trained at 32: add 32 to its bits",
                    )


def _filters(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    known = {
        "model": {model.title for model in suite.models},
        "defense": {defense.title for defense in suite.defenses},
        "quantizer": {name for quantizer in suite.quantizers for name in names_of(quantizer)}
        | {"fp"}
        | {model.ready.runtime for model in suite.models if model.ready},
        "preprocessor": {preprocessor.title for preprocessor in suite.preprocessors} or {BARE},
        "attack": {attack.title for attack in suite.attacks},
    }
    if suite.pool is not None:
        known["attack"] |= {attack.title for attack in (*suite.pool.seen, *suite.pool.unseen)}
    # Pool patches come from the undefended network, whether or not the suite lists it.
    undefended = {UNDEFENDED} if suite.pool is not None else set()
    known |= {"source_model": known["model"], "source_defense": known["defense"] | undefended}
    for section in ("include", "exclude"):
        for index, item in enumerate(getattr(suite, section)):
            for key, names in known.items():
                wanted = getattr(item, key)
                for name in () if wanted is None else (wanted,) if isinstance(wanted, str) else wanted:
                    if name not in names:
                        yield (
                            (section, index, key),
                            f"no {key} {name!r} in this suite; it has {', '.join(sorted(names))}",
                        )


def names_of(quantizer: object) -> tuple[str, ...]:
    """The names a filter may use for a quantizer: its registered name, its label and its mode."""
    return tuple(dict.fromkeys((quantizer.name, quantizer.title, quantizer.mode)))  # type: ignore[attr-defined]
