"""V15: a network that a row calls b-bit is one of b bits, judged by the levels that were counted in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from qpatchbench.quantizers.inspection.audit_layers import LayerAudit, effective_bits
from qpatchbench.runs.records import Check
from qpatchbench.types import FLOAT_BITS, Bits, StatedLayer

MOST_ABOVE = 0.5  # share of multiply-accumulates that may have more bits than the row says
_NAMED = 3  # layers that a message names


def bits_are_as_claimed(layers: Sequence[LayerAudit], claimed: Sequence[Bits]) -> Check:
    """V15 on one deployed network.

    The first and the last layer of a network, and what a quantizer declares to have more bits, such as shortcuts, count
    in the mean of bits only, unless that is most of the network.

    Args:
        layers: all that multiplies by weights, in order of execution.
        claimed: the row's bit-width, and those of the networks that answer together with it.

    Returns:
        `fail` where a layer has more levels than its bits allow, most multiply-accumulates have more than claimed, or
        an operator outside of all layers multiplies by weights in float; `warn` where some layer was left in float.
    """
    if not layers or not any(row.multiplications for row in layers):
        return Check(id="V15", verdict="not-run", message="nothing in the network multiplies by weights")
    weight, activation = max(bits.weight for bits in claimed), max(bits.activation for bits in claimed)
    layers = [row if row.declares else _as_counted(row, weight, activation) for row in layers]
    outside = [row for row in layers if not row.is_layer]
    judged = _inner([row for row in layers if row.is_layer]) or [row for row in layers if not row.declares]
    wider = [row for row in judged if row.weight_bits > weight or row.activation_bits > activation]
    share = _multiplications(wider) / max(1, _multiplications(judged))
    mean = effective_bits(layers)
    figures = {
        "effective_weight_bits": mean.weight,
        "effective_activation_bits": mean.activation,
        "most_weight_levels": float(max(row.weight_levels or 0 for row in judged or layers)),
        "most_activation_levels": float(max(row.activation_levels or 0 for row in judged or layers)),
        "wider_share": share,
        "float_layers": float(sum(row.weight_bits == FLOAT_BITS for row in layers)),
    }
    problems = [text for row in layers if row.declares for text in _levels(row)]
    problems = [*problems[:_NAMED], *([f"{len(problems) - _NAMED} more"] if len(problems) > _NAMED else [])]
    astray = [row for row in outside if row.weight_bits > weight or row.activation_bits > activation]
    if astray:
        part = 100 * _multiplications(astray) / _multiplications(layers)
        problems.append(
            f"{part:.{0 if part >= 1 else 2}f} % of the multiply-accumulates run in float outside of all layers: "
            f"{_names(astray)}"
        )
    if share > MOST_ABOVE:
        problems.append(
            f"{100 * share:.0f} % of the multiply-accumulates between the first and the last layer are wider than the "
            f"{Bits(weight, activation)} bits of the row: {_names(wider)}"
        )
    if problems:
        return Check(id="V15", verdict="fail", message="; ".join(problems), figures=figures)
    left = [row for row in wider if not row.declares]
    if left:
        message = (
            f"not quantized: {_names(left)}; on average a multiplication has {mean.weight:.1f} bits of weight and "
            f"{mean.activation:.1f} of activation"
        )
        return Check(id="V15", verdict="warn", message=message, figures=figures)
    return Check(id="V15", verdict="pass", figures=figures)


def audited(stated: StatedLayer) -> LayerAudit:
    """A layer as a deployed file states it; one that multiplies floats declares nothing."""
    quantized = stated.weight_bits != FLOAT_BITS or stated.activation_bits != FLOAT_BITS
    return LayerAudit(
        name=stated.name,
        weight_bits=stated.weight_bits,
        activation_bits=stated.activation_bits,
        weight_levels=stated.weight_levels if not quantized or stated.weight_bits != FLOAT_BITS else None,
        activation_levels=stated.activation_levels if quantized else 2**FLOAT_BITS,
        signed=True,
        multiplications=stated.multiplications,
        declares=quantized,
    )


def _as_counted(row: LayerAudit, weight: int, activation: int) -> LayerAudit:
    """A layer that declares nothing, as wide as the row says if its levels fit, else float."""
    fits = row.weight_levels is None or row.weight_levels <= 2**weight
    passes = row.activation_bits != FLOAT_BITS or (row.activation_levels or 0) <= 2**activation
    return replace(
        row,
        weight_bits=weight if fits else FLOAT_BITS,
        activation_bits=min(row.activation_bits, activation) if passes else FLOAT_BITS,
    )


def _inner(layers: Sequence[LayerAudit]) -> list[LayerAudit]:
    """Without the first and the last layer of every network."""
    found: list[LayerAudit] = []
    for _, own in groupby(layers, key=_network):
        found += [*own][1:-1]
    return found


def _network(row: LayerAudit) -> str:
    """Which member of an ensemble a layer belongs to: `members.0.` of members.0.conv1."""
    parts = row.name.split(".")
    return ".".join(parts[:2]) if parts[0] == "members" else ""


def _levels(row: LayerAudit) -> list[str]:
    """What a layer has too many of."""
    counted = (
        ("weight", row.weight_levels, row.weight_bits),
        ("activation", row.activation_levels, row.activation_bits),
    )
    return [
        f"{row.name} has {levels} {what} levels at {bits} bits"
        for what, levels, bits in counted
        if levels is not None and levels > 2**bits
    ]


def _multiplications(layers: Sequence[LayerAudit]) -> int:
    return sum(row.multiplications for row in layers)


def _names(layers: Sequence[LayerAudit]) -> str:
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return ", ".join(row.name for row in layers[:_NAMED]) + more
