"""The printed numbers, one by one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache

from qpatchbench.papers.printed.package_data import read

# What a number belongs to, in the order of the file; "" where the paper does not say or it does not apply.
FACETS = (
    *("dataset", "model", "source_model", "defense", "attack", "quantization", "source_bits", "target_bits", "seen"),
    *("patch_size", "noise_percentage", "epsilon", "param", "param_value", "metric"),
)


@dataclass(frozen=True)
class PublishedValue:
    """One printed number with everything the paper says it belongs to.

    Attributes:
        paper: triqdef or qadtr.
        table: its number in the paper.
        dataset, model: of the attacked network.
        source_model: where the patch was made on another architecture.
        defense: none, qat, pbat, ..., with `_wo_` the ablations; none is the undefended network.
        attack: none beside clean accuracies.
        quantization: fp wherever target_bits is 32; ptq where the calibrator is not stated.
        source_bits, target_bits: of the network that the patch was made on, and of the attacked one; in tables of
            similarity the two members of a pair.
        seen: seen or unseen in training.
        patch_size: 6x6 and so on, in pixels.
        noise_percentage: share of the image that the patch covers, 0.1 for a tenth.
        epsilon: of attacks on all pixels, of the range [0, 1].
        param, param_value: whatever else distinguishes rows or columns of the table.
        metric: asr, clean_accuracy and robust_accuracy in percent, and others.
        value: as a number.
        value_printed: digits and marks as printed: 48.70, [2200], >7.
        printed_as: row and column as printed, joined by " | ".
        note: what the transcription inferred, or found odd.
    """

    paper: str
    table: int
    dataset: str
    model: str
    source_model: str
    defense: str
    attack: str
    quantization: str
    source_bits: str
    target_bits: str
    seen: str
    patch_size: str
    noise_percentage: str
    epsilon: str
    param: str
    param_value: str
    metric: str
    value: float
    value_printed: str
    printed_as: str
    note: str

    @property
    def printed_row(self) -> str:
        """Name of its row."""
        return self.printed_as.split(" | ")[0]

    @property
    def printed_column(self) -> str:
        """Name of its column."""
        return self.printed_as.split(" | ")[1]

    def key(self, facets: tuple[str, ...]) -> tuple[str, ...]:
        """Its values of some facets."""
        return tuple(str(getattr(self, facet)) for facet in facets)


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """All 1,033 numbers, in the order of the tables."""
    return read("published.csv", PublishedValue)


@cache
def values_by_table() -> dict[str, tuple[PublishedValue, ...]]:
    """The numbers of every table that has some, by name: `triqdef.5`."""
    found: dict[str, list[PublishedValue]] = defaultdict(list)
    for value in published_values():
        found[f"{value.paper}.{value.table}"].append(value)
    return {name: tuple(values) for name, values in found.items()}
