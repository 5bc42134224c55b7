"""Transfer matrices: one attack on one defended model, from every source to every bit-width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.row import FLOAT_MODE, OWN, Row
from qpatchbench.report.standings.threats import is_patch


@dataclass(frozen=True)
class TransferMatrix:
    """Rows of a log as a matrix.

    Attributes:
        attack, size: of the patches.
        sources: names of sources; those of the target's own training first, from 32 bits down.
        targets: bit-widths, from 32 down; with the quantizer where there are several.
        cells: what was measured, by source and target.
    """

    dataset: str
    model: str
    defense: str
    attack: str
    size: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[tuple[str, str], Row]

    @property
    def title(self) -> str:
        """`gap 6x6 on resnet20 qat`."""
        return f"{self.attack} {self.size} on {self.model} {self.defense}"


def is_significant(row: Row) -> bool:
    """Whether a patch fools more than noise does: the 95 % interval of the difference is above 0."""
    return row.interval("asr_net").low > 0


def transfer_matrices(rows: Iterable[Row]) -> tuple[TransferMatrix, ...]:
    """Every matrix with two cells or more, in the order of the log; moved patches and pixel attacks have none."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.source_model and not row.transformation and row.measured("asr") and is_patch(row):
            groups[row.dataset, row.model, row.defended, row.attack, row.size].append(row)
    return tuple(_matrix(key, group) for key, group in groups.items() if len(group) > 1)


def _matrix(key: tuple[str, ...], rows: Sequence[Row]) -> TransferMatrix:
    several = len({row.quantization for row in rows} - {FLOAT_MODE}) > 1
    cells = {(_source(row, several=several), _target(row, several=several)): row for row in rows}
    sources = sorted({(_order(row), _source(row, several=several)) for row in rows})
    targets = sorted({(bits_order(row.target_bits), _target(row, several=several)) for row in rows})
    dataset, model, defense, attack, size = key
    return TransferMatrix(
        dataset, model, defense, attack, size,
        tuple(dict.fromkeys(name for _, name in sources)), tuple(dict.fromkeys(name for _, name in targets)), cells,
    )  # fmt: skip


def _order(row: Row) -> tuple[object, ...]:
    return row.source != OWN, row.seen, bits_order(row.source_bits)


def _source(row: Row, *, several: bool) -> str:
    if row.source != OWN or row.seen or row.source_preprocessor != row.preprocessor:
        return row.source_text
    return f"{row.source_quantization}@{row.source_bits}" if several else row.source_bits


def _target(row: Row, *, several: bool) -> str:
    return f"{row.quantization}@{row.target_bits}" if several else row.target_bits
