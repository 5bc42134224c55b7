"""Part of the standings: some bit-widths, defenses, models and threats of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qpatchbench.errors import UnknownNameError
from qpatchbench.report.leaderboard.keys import bits_order
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.standings.standing import Standing
from qpatchbench.report.standings.threats import ACCURACIES, THREATS


@dataclass(frozen=True)
class BoardSelection:
    """What to show; empty: everything that was measured.

    Attributes:
        threats: columns, in the order given.
        bits, models, defenses: rows; a defense with what stands before it, `pbat + jedi`, or without.
        rank_by: the threat whose rank orders the rows and has a column; empty for the strongest that was measured.
    """

    threats: tuple[str, ...] = ()
    bits: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    rank_by: str = ""

    def rows(self, found: Sequence[Standing]) -> tuple[Standing, ...]:
        """The chosen rows, in the order of `found`; at the same bits by `rank_by`, best first, if that is given.

        Raises:
            UnknownNameError: a name that no row has.
        """
        kept = self._kept([(each.bits, each.model, {each.defense, each.defended}) for each in found])
        rows = [each for each, chosen in zip(found, kept, strict=True) if chosen]
        return tuple(sorted(rows, key=self._order) if self.rank_by else rows)

    def cells(self, found: Sequence[Row]) -> tuple[Row, ...]:
        """The chosen rows of the log, by the network that they are on, in the order of `found`.

        Raises:
            UnknownNameError: a name that no row has.
        """
        kept = self._kept([(each.target_bits, each.model, {each.defense}) for each in found])
        return tuple(each for each, chosen in zip(found, kept, strict=True) if chosen)

    def _kept(self, found: Sequence[tuple[str, str, set[str]]]) -> list[bool]:
        """Whether each row, by its bits, model and names of its defense, is chosen."""
        for what, wanted, known in (
            ("bits", self.bits, {bits for bits, _, _ in found}),
            ("model", self.models, {model for _, model, _ in found}),
            ("defense", self.defenses, set().union(*(names for _, _, names in found))),
        ):
            for name in wanted:
                if name not in known:
                    raise UnknownNameError(what, name, known)
        return [
            (not self.bits or bits in self.bits)
            and (not self.models or model in self.models)
            and (not self.defenses or not names.isdisjoint(self.defenses))
            for bits, model, names in found
        ]

    def _order(self, each: Standing) -> tuple[object, ...]:
        rate = each.rates.get(self.rank_by)
        value = math.inf if rate is None or math.isnan(rate.value) else rate.value
        order = -value if self.rank_by in ACCURACIES and value < math.inf else value
        return each.dataset, each.model, bits_order(each.bits), order

    def columns(self, rows: Sequence[Standing]) -> tuple[str, ...]:
        """The chosen threats; of all, those that some row has.

        Raises:
            UnknownNameError: no such threat.
        """
        for name in (*self.threats, *filter(None, [self.rank_by])):
            if name not in THREATS:
                raise UnknownNameError("threat", name, THREATS)
        return self.threats or tuple(name for name in THREATS if any(name in each.rates for each in rows))

    def ranking(self, rows: Sequence[Standing]) -> str:
        """The threat that ranks: the one asked for, or the strongest of those with ranks among the columns."""
        columns = self.columns(rows)
        order = ("white_box", "worst", "unseen", "ensemble", "from_32", "seen", "other_bits", "external", "clean")
        ranked = [name for name in order if name in columns and any(_rank(each, name) for each in rows)]
        return self.rank_by or next(iter(ranked), "")


def _rank(each: Standing, threat: str) -> int:
    rate = each.rates.get(threat)
    return rate.rank if rate is not None else 0
