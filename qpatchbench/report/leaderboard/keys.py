"""The order of rows, bit-widths and axes."""

from __future__ import annotations

from qpatchbench.runs.records import CellRecord

# Cells that agree in these are one row; they differ in the seed only.
ROW_KEY = (
    "dataset",
    "model",
    "defense",
    "preprocessor",
    "quantization",
    "attack",
    "patch_height",
    "patch_width",
    "source_model",
    "source_defense",
    "source_quantization",
    "source_bits",
    "target_bits",
    "seen",
    "transformation",
    "source_preprocessor",
)
FLOAT_BITS = "32"


def bits_order(bits: str) -> tuple[int, int]:
    """Sort key: from 32 down to 2, `w4a8` by weights and then activations; no bit-width first, an ensemble last.

    >>> sorted(["2", "ensemble", "w4a8", "32", "4"], key=bits_order)
    ['32', 'w4a8', '4', '2', 'ensemble']
    """
    if not bits:
        return (-1000, 0)
    if not any(letter.isdigit() for letter in bits):
        return (0, 0)
    weight, _, activation = bits.removeprefix("w").partition("a")
    return (-int(weight), -int(activation or weight))


def row_key(cell: CellRecord) -> tuple[str | int, ...]:
    """What identifies a cell's row."""
    return tuple(getattr(cell, name) for name in ROW_KEY)


def row_order(key: tuple[str | int, ...]) -> tuple[object, ...]:
    """Sort key of rows: by their own key, bit-widths as numbers."""
    bits = {ROW_KEY.index("source_bits"), ROW_KEY.index("target_bits")}
    return tuple(bits_order(str(part)) if place in bits else part for place, part in enumerate(key))
