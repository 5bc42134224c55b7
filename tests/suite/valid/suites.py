"""Suites drawn at random: components with fields of any kind, on tiny images, with work for seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from qpatchbench.registry import ATTACKS, DEFENSES, PREPROCESSORS, QUANTIZERS, Registry
from qpatchbench.types import Bits, Size

SIDES = (8, 9, 12)
# Fields that decide how long it takes: always given, and small.
COSTLY = {
    "steps", "queries", "restarts", "texture_steps", "rounding_steps", "epochs", "samples", "textures_per_class",
    "candidates", "random_places", "batch_size", "fitting_images", "effort", "channels", "t_star",
}  # fmt: skip
CHEAP: dict[str, st.SearchStrategy[Any]] = {
    "effort": st.just("trial"),
    "channels": st.just(8),
    "t_star": st.sampled_from([0.0, 0.003]),
    "queries": st.integers(1, 12),
    "samples": st.integers(2, 4),
    "batch_size": st.integers(1, 40),
}
# Not drawn: what needs a download, a file, or the name of a layer.
GIVEN = {"name", "label", "model", "revision", "layers", "bits"}
ATTENTIVE = "timm/test_vit.r160_in1k"
MODELS: tuple[dict[str, Any], ...] = ({"name": "resnet20"}, {"name": "alexnet"}, {"name": "vgg16"})
BITS = st.one_of(st.sampled_from([32, 8, 5, 4, 3, 2, 16]), st.sampled_from(["w4a8", "w8a2", "w32a8", "w2a32"]))
ANY_SEED = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, -1]))


def _value(annotation: Any, bounds: Mapping[str, Any]) -> st.SearchStrategy[Any]:  # noqa: ANN401 (any annotation)
    """A value that a field of this type may take, as a suite writes it; mostly one that is small."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        facts = inner[1].metadata if isinstance(inner[1], FieldInfo) else inner[1:]
        return _value(inner[0], {**bounds, **_bounds(facts)})
    if origin in (Union, UnionType):
        return st.one_of(*(_value(branch, bounds) for branch in inner))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(_value(inner[0], {}), min_size=1, max_size=3)
    if origin is tuple:
        return st.tuples(*(_value(part, {}) for part in inner)).map(list)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return _whole(bounds)
    if annotation is float:
        return _fraction(bounds)
    if annotation is Size:
        return st.one_of(st.integers(1, 5), st.sampled_from(["4%", "0.5%", "25%", "100%", SIDES[0]]))
    return BITS if annotation is Bits else st.none()


def _bounds(facts: Iterable[object]) -> dict[str, Any]:
    """The limits of a number, by their names in pydantic."""
    names = ("ge", "gt", "le", "lt", "multiple_of")
    return {name: getattr(fact, name) for fact in facts for name in names if hasattr(fact, name)}


def _whole(bounds: Mapping[str, Any]) -> st.SearchStrategy[int]:
    lowest = bounds.get("ge", bounds.get("gt", -1) + 1)
    step = bounds.get("multiple_of", 1)
    if step > 1:
        return st.just(step * -(-lowest // step))
    return st.integers(lowest, min(lowest + 4, bounds.get("le", lowest + 4)))


def _fraction(bounds: Mapping[str, Any]) -> st.SearchStrategy[float]:
    return st.floats(
        bounds.get("ge", bounds.get("gt", 0.0)),
        bounds.get("le", bounds.get("lt", 2.0)),
        exclude_min="gt" in bounds,
        exclude_max="lt" in bounds,
        width=16,
    )


@st.composite
def components(draw: st.DrawFn, registry: Registry, names: list[str]) -> dict[str, Any]:
    """A component of one of these names: costly fields small, of the others a few."""
    name = draw(st.sampled_from(names))
    fields: dict[str, Any] = {"name": name}
    for field, info in registry.get(name).model_fields.items():
        if field in GIVEN or (field == "size" and getattr(registry.get(name), "covers", "") == "image"):
            continue
        wanted = field in COSTLY or info.is_required() or draw(st.integers(0, 4)) == 0
        if wanted:
            fields[field] = draw(CHEAP.get(field, _value(info.annotation, _bounds(info.metadata))))
    return fields


def _name(fields: dict[str, Any]) -> str:
    return str(fields["name"])


def _names(registry: Registry, *left_out: str) -> list[str]:
    return sorted(name for name in registry.entries if "<" not in name and name not in left_out)


@st.composite
def datasets(draw: st.DrawFn, side: int, classes: int) -> dict[str, Any]:
    """Few images, and sometimes none to calibrate on."""
    held_out = {
        "calibration_images": draw(st.sampled_from([8, 1, 3, 0])),
        "craft_images": draw(st.sampled_from([8, 12, 1])),
    }
    if draw(st.integers(0, 9)) == 0:
        return {"name": "digits", "image_size": side, "train_images": 40, **held_out}
    pools = {"train_pool": draw(st.sampled_from([60, 24])), "test_pool": draw(st.sampled_from([12, 4]))}
    return {"name": "fake", "image_size": side, "classes": classes, **pools, **held_out}


@st.composite
def models(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Mostly one small network; sometimes a transformer, or several."""
    if draw(st.integers(0, 5)) == 0:
        return [{"name": ATTENTIVE, "input_size": 32}]
    if draw(st.integers(0, 5)) == 0:
        return draw(st.lists(st.sampled_from(MODELS), min_size=2, max_size=3, unique_by=_name))
    return [draw(st.sampled_from(MODELS[:1] * 4 + MODELS[1:]))]


@st.composite
def suites(draw: st.DrawFn) -> dict[str, Any]:
    """A suite as its file holds it; many are valid, and none takes long."""
    side, classes = draw(st.sampled_from(SIDES)), draw(st.sampled_from([4, 10, 2, 3]))
    kinds = draw(st.lists(st.sampled_from(_names(QUANTIZERS)), min_size=1, max_size=2, unique=True))
    if "random_precision" in kinds:
        kinds = ["qat", "random_precision"]
    trained = draw(st.lists(BITS, min_size=1, max_size=3, unique=True))
    if len(kinds) > 1 and draw(st.integers(0, 9)):
        trained = list(dict.fromkeys([32, *trained]))
    quantizers = []
    for kind in kinds:
        widths = draw(st.lists(BITS, min_size=1, max_size=3, unique=True)) if kind != "fp" else [32]
        if kind in ("qat", "random_precision"):
            widths = [bits for bits in trained if kind == "qat" or bits not in (32, "w32a8", "w2a32")] or [4]
        quantizers.append({**draw(components(QUANTIZERS, [kind])), "bits": widths})
    trains = "qat" in kinds
    aware = [name for name in _names(DEFENSES) if DEFENSES.get(name)(name=name).quantization_aware == trains]
    attacks = draw(st.lists(components(ATTACKS, _names(ATTACKS)), min_size=1, max_size=2, unique_by=_name))
    suite: dict[str, Any] = {
        "suite": "drawn",
        "dataset": draw(datasets(side, classes)),
        "models": draw(models()),
        "training": {"epochs": draw(st.integers(0, 1)), "batch_size": draw(st.sampled_from([16, 100, 1]))},
        "defenses": draw(st.lists(components(DEFENSES, aware), min_size=1, max_size=2, unique_by=_name)),
        "quantizers": quantizers,
        "attacks": attacks,
        "evaluation": {"images": draw(st.sampled_from([12, 5, 1])), "batch_size": draw(st.integers(1, 20))},
        "seeds": draw(st.lists(ANY_SEED, min_size=1, max_size=2, unique=True)),
    }
    listed = sorted({str(bits) for quantizer in quantizers for bits in quantizer["bits"]})
    crafted_on = st.one_of(
        st.sampled_from(["same", "all", "ensemble", "other-models"]), st.sampled_from(["32", *listed])
    )
    sources = draw(st.lists(crafted_on, min_size=1, max_size=2, unique=True))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "transfer": st.fixed_dictionaries(
            {
                "sources": st.just(sources),
                "architectures": st.sampled_from(["same", "all"]),
                "defenses": st.sampled_from(["same", "all"]),
            }
        ),
        "finetuning": st.just({"epochs": 1, "batch_size": 12}),
        "preprocessors": st.lists(
            components(PREPROCESSORS, _names(PREPROCESSORS)), min_size=1, max_size=2, unique_by=_name
        ),
        "pool": st.just({"seen": [{"name": "lavan", "size": 2, "steps": 1, "batch_size": 4}]}),
        "sweep": sweeps(),
        "analysis": analyses(suite["defenses"]),
        "limit": st.integers(1, 5),
    }
    for key, values in optional.items():
        if draw(st.integers(0, 3)) == 0 or (key == "pool" and any(d["name"] == "triqdef" for d in suite["defenses"])):
            suite[key] = draw(values)
    if any(attack["name"] == "ensemble" for attack in attacks) and "transfer" not in suite:
        suite["transfer"] = {"sources": ["ensemble"]}
    return suite


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes, shifts and angles, a few of them not such."""
    return {
        "sizes": draw(st.lists(_value(Size, {}), max_size=1)),
        "shifts": draw(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)).map(list), max_size=1)),
        "rotations": draw(st.lists(st.sampled_from([45, -90.5, 359, 1e-3, float("nan"), 0]), max_size=1)),
    }


@st.composite
def analyses(draw: st.DrawFn, defenses: list[dict[str, Any]]) -> dict[str, Any]:
    """What else is measured."""
    costs = draw(st.sampled_from([None, defenses[0]["name"]]))
    images = draw(st.integers(1, 3))
    return {
        **({} if costs is None else {"costs": costs, "fewer_bits": draw(st.booleans())}),
        "similarity": draw(st.booleans()),
        "images": images,
        "maps": draw(st.integers(0, images)),
    }
