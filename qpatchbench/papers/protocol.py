"""In what a run departs from what the papers state about their experiments, read from its manifest.

Only what a paper states can be departed from: neither names the steps, step sizes, target classes or seeds of its
attacks. A budget smaller than this package's default is named all the same, because it is known to be a reduced one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from functools import cache
from typing import Any

from pydantic_core import to_jsonable_python

from qpatchbench.errors import QPatchBenchError
from qpatchbench.papers.printed.values import PublishedValue
from qpatchbench.papers.vocabulary import VARYING, Setting
from qpatchbench.registry import REGISTRIES
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.leaderboard.row import Row

TEST_IMAGES = {"cifar10": 10_000, "imagenet": 1_000}  # ImageNet: of QADT-R, section 5.1; TriQDef does not say
EPOCHS = {("triqdef", "cifar10"): 200, ("triqdef", "imagenet"): 120, ("qadtr", "cifar10"): 50}
MACHINE = "NVIDIA A100"
COST_BATCH = 256  # TriQDef, footnote of appendix D; its section 4.1 trains with 128
_IDENTITY = {"name", "label", "size"}
_BUDGETS = ("steps", "restarts", "queries", "candidates", "iterations", "images")


def of_run(folder: RunFolder, value: PublishedValue, dataset: str) -> Iterator[str]:
    """Departures of the whole run: images and training."""
    manifest, suite = folder.manifest, folder.suite
    if "(" in folder.dataset:
        yield f"images: {folder.dataset}"
    if manifest.get("partial"):
        yield "evaluation images cut by --limit"
    evaluated, wanted = (manifest.get("images") or {}).get("evaluation"), TEST_IMAGES.get(dataset, 0)
    if evaluated is not None and evaluated < wanted:
        yield f"{evaluated:,} of {wanted:,} test images"
    yield from _reduced_training(suite, EPOCHS.get((value.paper, dataset)))


def of_row(folder: RunFolder, row: Row, meant: Set[str], *, patched: bool) -> Iterator[str]:
    """Departures of one row: its defense, its attack where a patch matters, and its own trouble.

    Args:
        folder: where the row is from.
        row: of its leaderboard.
        meant: fields of the defense that the published variant sets itself.
        patched: whether the number is one of patched images.
    """
    defense = component(folder, "defenses", row.defense)
    for name, found, default in changed_fields("defenses", defense):
        if name not in meant:
            yield f"{row.defense} with {name} {found} instead of {default}"
    if patched:
        for name, found, default in changed_fields("attacks", component(folder, "attacks", row.attack, row.size)):
            if _smaller(name, found, default):
                yield f"{row.attack} with {name} {found} instead of {default}"
    if row.status != "ok":
        yield row.status


def other_architecture(model: str, published: str) -> str:
    """That an architecture stands in for the published one."""
    return f"architecture: {model} instead of {published}"


def of_costs(folder: RunFolder, row: Mapping[str, Any]) -> Iterator[str]:
    """Departures of a measured training step: the machine, and what it is relative to."""
    device = str(folder.manifest.get("device") or "an unknown device")
    if "A100" not in device:
        yield f"timed on {device} instead of an {MACHINE}"
    if row["batch_size"] != COST_BATCH:
        yield f"batches of {row['batch_size']} instead of {COST_BATCH}"
    if row["reference"] != "qat":
        yield f"relative to {row['reference']} instead of qat"


def of_gradients(folder: RunFolder, row: Mapping[str, Any]) -> Iterator[str]:  # noqa: ARG001 (as `of_costs`)
    """Departures of compared input gradients, of which the papers say next to nothing."""
    yield "the pixel attack, the patch and the images are not stated"
    if "(" in folder.dataset:
        yield f"images: {folder.dataset}"


def components(folder: RunFolder, kind: str) -> list[Mapping[str, Any]]:
    """Resolved components of a suite, those of its pool too; empty where the manifest has none."""
    suite = folder.suite
    pool = (suite.get("pool") or {}) if kind == "attacks" else {}
    found = [*(suite.get(kind) or ()), *(pool.get("seen") or ()), *(pool.get("unseen") or ())]
    return [each for each in found if isinstance(each, dict)]


def component(folder: RunFolder, kind: str, title: str, size: str = "") -> Mapping[str, Any]:
    """The component that results call `title`; of several sizes the one that fits; else only the name."""
    found = [each for each in components(folder, kind) if (each.get("label") or each["name"]) == title]
    fitting = [each for each in found if f"{each.get('size')}x{each.get('size')}" == size]
    return (fitting or found or [{"name": title}])[0]


def titles(folder: RunFolder, kind: str, setting: Setting) -> tuple[str, ...]:
    """What results call a setting, the closest to its defaults first; its own name where the manifest is silent.

    A component under a label of its own is another variant, and counts only where the setting asks for its fields.
    """
    known = components(folder, kind)
    if not known:
        return () if setting.fields else (setting.name,)
    found = {}
    for config in known:
        label = config.get("label")
        plain = label is None or label == setting.name
        if config["name"] != setting.name or not (plain or setting.fields):
            continue
        asked = {name: config.get(name, default) for name, default in _defaults(kind, setting.name).items()}
        if all(_equal(asked.get(name, config.get(name)), wanted) for name, wanted in setting.fields.items()):
            others = {name for name, _, _ in changed_fields(kind, config)} - setting.fields.keys()
            if not (setting.fields and others & VARYING.get(setting.name, set())):
                found[label or setting.name] = len(others)
    return tuple(sorted(found, key=lambda title: (found[title], title)))


def changed_fields(kind: str, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Fields that are not at their default: name, value, default. The size of a patch is no departure."""
    return [
        (name, config[name], default)
        for name, default in _defaults(kind, config["name"]).items()
        if name in config and name not in _IDENTITY and not _equal(config[name], default)
    ]


@cache
def _defaults(kind: str, name: str) -> Mapping[str, Any]:
    try:
        fields = REGISTRIES[kind].get(name).model_fields
    except QPatchBenchError:  # a component of a plugin that is not here
        return {}
    return {each: to_jsonable_python(facts.default) for each, facts in fields.items() if not facts.is_required()}


def _reduced_training(suite: Mapping[str, Any], stated: int | None) -> Iterator[str]:
    models = [model for model in suite.get("models") or () if isinstance(model, dict)]
    if any(model.get("weights", "train") != "train" for model in models):
        return
    epochs = (suite.get("training") or {}).get("epochs")
    tuned = suite.get("finetuning") or {}
    if stated is not None and epochs is not None and epochs + tuned.get("epochs", 0) < stated:
        more = f" and {tuned['epochs']} of fine-tuning" if "epochs" in tuned else ""
        yield f"{epochs} epochs{more} instead of {stated}"
    if (suite.get("dataset") or {}).get("train_images") is not None:
        yield f"{suite['dataset']['train_images']:,} training images"
    if tuned.get("images_per_epoch") is not None:
        yield f"{tuned['images_per_epoch']:,} images per epoch of fine-tuning"


def _equal(found: object, wanted: object) -> bool:
    numbers = isinstance(found, int | float) and isinstance(wanted, int | float)
    return abs(float(found) - float(wanted)) < 1e-9 if numbers else found == wanted  # type: ignore[arg-type]  # both are numbers


def _smaller(name: str, found: object, default: object) -> bool:
    numbers = isinstance(found, int | float) and isinstance(default, int | float)
    return name in _BUDGETS and numbers and float(found) < float(default)  # type: ignore[arg-type]  # both are numbers
