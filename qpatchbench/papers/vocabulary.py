"""Names of the papers in the words used here, and what is taken where a paper does not say.

Alternatives stand in the order in which they are looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qpatchbench.papers.printed.values import PublishedValue

MODELS = {"mobilenetv2": ("mobilenetv2_100", "timm/mobilenetv2_100")}
# The float network of a table of quantization-aware training is the 32-bit path of the same backbone.
UNDEFENDED = {"qat": ("qat",), "ptq": ("none", "qat"), "dynamic": ("none", "qat"), "fp": ("none", "qat")}
# Post-training quantization deploys a network that was trained in float.
FLOAT_TRAINED = {"pbat": "pbat_float", "at_pgd7": "at_pgd_float"}
DEFENSES = {"at_pgd7": "at_pgd"}
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "triqdef_wo_fdp": ("triqdef", {"lambda_fdp": 0}),
    "triqdef_wo_gpdp": ("triqdef", {"lambda_gpdp": 0}),
    "qadtr_wo_aqapa": ("qadtr", {"patches": "float"}),
    "qadtr_wo_dbwt": ("qadtr", {"switching": "fixed"}),
    "qadtr_wo_gir": ("qadtr", {"gradient_inconsistency": "none"}),
}
# Fields that make a variant: one that changes another of them is not the variant that is looked for.
VARYING = {
    "triqdef": {"lambda_fdp", "lambda_gpdp", "alpha", "beta"},
    "qadtr": {"patches", "switching", "gradient_inconsistency"},
}
ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {"pgd20": ("pgd", {"steps": 20})}
PREPROCESSORS = ("jedi", "diffpure")  # defenses in print; what stands before an undefended network here
METRICS = {"softdice": "soft_dice", "softhog": "soft_hog_cosine"}

DATASETS = dict.fromkeys(("triqdef.2", "qadtr.7", "qadtr.8"), "cifar10") | dict.fromkeys(
    ("triqdef.3", "triqdef.12"), "imagenet"
)
MAIN_MODELS = {"cifar10": "resnet56", "imagenet": "resnet34"}
PATCH_SIZES = {"cifar10": "6x6", "imagenet": "50x50"}
DEFAULTS = {"attack": "lavan", "target_bits": "8"}
QUANTIZATIONS = {"triqdef.15": ("qat", "ptq")}


class Setting(NamedTuple):
    """A component as a paper means it: its name here, and the fields that make it that variant."""

    name: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name + "".join(f" with {name} {value}" for name, value in self.fields.items())


def defenses(value: PublishedValue, row_mode: str) -> tuple[Setting, ...]:
    """What a published defense is called here.

    Args:
        value: one printed number.
        row_mode: how the quantized networks of its row are quantized, where they share a mode; "" elsewhere.
    """
    name = value.defense
    mode = value.quantization.partition("_")[0]
    if name in ("none", "") or name in PREPROCESSORS:
        names = (*UNDEFENDED.get(row_mode, ()), *UNDEFENDED.get(mode or "qat", ("qat",)))
        return tuple(Setting(each, {}) for each in dict.fromkeys(names))
    if value.param in ("(alpha,beta)", "(lambda_fdp,lambda_gpdp)"):
        numbers = (float(number) for number in value.param_value.strip("()").split(","))
        return (Setting(name, dict(zip(value.param.strip("()").split(","), numbers, strict=True))),)
    if name in ABLATIONS:
        return (Setting(*ABLATIONS[name]),)
    own = DEFENSES.get(name, name)
    trained = {"ptq": (FLOAT_TRAINED.get(name, own),), "fp": (own, FLOAT_TRAINED.get(name, own))}.get(mode, (own,))
    return tuple(Setting(each, {}) for each in dict.fromkeys(trained))


def attack(value: PublishedValue) -> Setting:
    """What a published attack is called here."""
    name, given = ATTACKS.get(value.attack, (value.attack or DEFAULTS["attack"], {}))
    return Setting(name, {**given, **({"epsilon": float(value.epsilon)} if value.epsilon else {})})


def quantizations(table: str, value: PublishedValue) -> tuple[str, ...]:
    """Quantization modes of a run, as patterns; quantization-aware training where the paper does not say."""
    given = (value.quantization.replace("_", "-"),) if value.quantization else QUANTIZATIONS.get(table, ("qat",))
    return tuple("ptq*" if mode == "ptq" else mode for mode in given)


def transformation(value: PublishedValue) -> str:
    """How the finished patch was moved, in the words of a run.

    Published: original, shift_(2,2), rotate_5deg.
    """
    kind, _, amount = value.param_value.partition("_") if value.param == "patch_transform" else ("", "", "")
    return {"shift": f"shift {amount.strip('()')}", "rotate": f"rotation {amount.removesuffix('deg')}"}.get(kind, "")


def row_modes(values: Sequence[PublishedValue | None]) -> str:
    """The one quantization mode of a row's quantized networks; "" where there are none or several."""
    modes = {value.quantization for value in values if value is not None} - {"", "fp"}
    return next(iter(modes)).partition("_")[0] if len(modes) == 1 else ""
