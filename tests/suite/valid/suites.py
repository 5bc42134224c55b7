"""Suites drawn at random: components with fields of any kind, on tiny images, with work for seconds."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
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
MODELS: tuple[dict[str, Any], ...] = ({"name": "resnet20"}, {"name": "vgg16"}, {"name": "alexnet"})
BITS = st.one_of(st.sampled_from([32, 8, 5, 4, 3, 2, 16]), st.sampled_from(["w4a8", "w8a2", "w32a8", "w2a32"]))
ANY_SEED = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, -1]))


def _value(annotation: Any, bounds: list[object]) -> st.SearchStrategy[Any]:  # noqa: ANN401 (any annotation)
    """A value that a field of this type may take, as a suite writes it; mostly one that is small."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = inner[1].metadata if isinstance(inner[1], FieldInfo) else list(inner[1:])
        return _value(inner[0], [*bounds, *found])
    if origin in (Union, UnionType):
        return st.one_of(*(_value(branch, bounds) for branch in inner))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(_value(inner[0], []), min_size=1, max_size=3)
    if origin is tuple:
        return st.tuples(*(_value(part, []) for part in inner)).map(list)
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        lowest = max(
            [0, *(b.ge for b in bounds if isinstance(b, Ge)), *(b.gt + 1 for b in bounds if isinstance(b, Gt))]
        )
        highest = min([lowest + 4, *(b.le for b in bounds if isinstance(b, Le))])
        step = next((b.multiple_of for b in bounds if isinstance(b, MultipleOf)), 1)
        return st.integers(lowest, highest).map(lambda number: max(step, number // step * step) if step > 1 else number)
    if annotation is float:
        return _fraction(bounds)
    if annotation is Size:
        return st.one_of(st.integers(1, 5), st.sampled_from(["4%", "0.5%", "25%", "100%", SIDES[0]]))
    if annotation is Bits:
        return BITS
    return st.none()


def _fraction(bounds: list[object]) -> st.SearchStrategy[float]:
    lowest = max(
        [0.0, *(float(b.ge) for b in bounds if isinstance(b, Ge)), *(b.gt for b in bounds if isinstance(b, Gt))]
    )
    highest = min(
        [2.0, *(float(b.le) for b in bounds if isinstance(b, Le)), *(b.lt for b in bounds if isinstance(b, Lt))]
    )
    open_below = any(isinstance(b, Gt) for b in bounds)
    open_above = any(isinstance(b, Lt) for b in bounds)
    return st.floats(lowest, highest, exclude_min=open_below, exclude_max=open_above, width=16)


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
            fields[field] = draw(CHEAP.get(field, _value(info.annotation, list(info.metadata))))
    return fields


def _name(fields: dict[str, Any]) -> str:
    return str(fields["name"])


def _names(registry: Registry, *left_out: str) -> list[str]:
    return sorted(name for name in registry.entries if "<" not in name and name not in left_out)


@st.composite
def suites(draw: st.DrawFn) -> dict[str, Any]:
    """A suite as its file holds it; many are valid, and none takes long."""
    side, classes = draw(st.sampled_from(SIDES)), draw(st.sampled_from([2, 3, 4, 10]))
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
    attentive = draw(st.integers(0, 5)) == 0
    attacks = draw(st.lists(components(ATTACKS, _names(ATTACKS)), min_size=1, max_size=2, unique_by=_name))
    suite: dict[str, Any] = {
        "suite": "drawn",
        "dataset": {
            "name": "fake",
            "image_size": side,
            "classes": classes,
            "train_pool": draw(st.sampled_from([24, 60])),
            "test_pool": draw(st.sampled_from([4, 12])),
            "calibration_images": draw(st.sampled_from([8, 1, 0])),
            "craft_images": draw(st.sampled_from([8, 1])),
        },
        "models": [
            {"name": ATTENTIVE, "input_size": 32} if attentive else draw(st.sampled_from(MODELS[:1] * 4 + MODELS[1:]))
        ],
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
        "transfer": st.just({"sources": sources}),
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
        "sizes": draw(st.lists(_value(Size, []), max_size=1)),
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
