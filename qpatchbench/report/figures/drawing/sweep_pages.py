"""Points of the curves against patch size, shift and rotation, chosen from rows of a leaderboard."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qpatchbench.report.figures.drawing.points import bits_label, families
from qpatchbench.report.leaderboard.keys import FLOAT_BITS, bits_order
from qpatchbench.report.leaderboard.row import FLOAT_MODE, SAME_NETWORK, Row, behind

# What is varied, and what its axis says.
AXES = {"size": "patch side (pixels)", "shift": "shift (rows, columns; pixels)", "rotation": "rotation (degrees)"}
WHITE_BOX = "white-box"
_ORIGIN = {"shift": "0,0", "rotation": "0"}
_MOVED = re.compile(r"shift (?P<shift>-?\d+,-?\d+)|rotation (?P<rotation>-?[\d.]+(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Page:
    """One picture.

    Attributes:
        axis: one of AXES.
        by: the column that tells lines apart, target_bits or defense.
        lines: by its value, rows by place on the axis, in order.
        title: what all of it has in common, for people.
        parts: the same for a file name.
    """

    axis: str
    by: str
    lines: Mapping[str, Mapping[str, Row]]
    title: str
    parts: tuple[str, ...]

    @property
    def places(self) -> list[str]:
        """Of all lines, in order."""
        return ordered(place for line in self.lines.values() for place in line)


def pages(rows: Sequence[Row]) -> Iterator[Page]:
    """Every picture that has a line of two points: the bit-widths of a defense, and the defenses at a bit-width."""
    patches = [row for row in rows if row.source_model and row.measured("asr")]
    for family, own in families(patches):
        yield from _pages(own, "target_bits", family.title, family.parts)
    networks = {_network(row) for row in patches}
    for network in sorted(networks, key=lambda key: (key[:-1], bits_order(key[-1]))):
        own = [row for row in patches if _network(row) == network]
        if len({row.defense for row in own}) > 1:
            dataset, model, preprocessor, mode, bits = network
            told = "float" if mode == FLOAT_MODE else f"{bits_label(bits)} ({mode})"
            before = behind(preprocessor)
            parts = (dataset, model, before.removeprefix(" + "), mode, bits if mode != FLOAT_MODE else "")
            yield from _pages(own, "defense", f"{model}{before}, {told} on {dataset}", parts)


def place_of(row: Row, axis: str) -> str | None:
    """Where a row stands on an axis; None where it is no point of it.

    A patch that was not moved is the origin of shifts and rotations; one that was moved is no point of the sizes.
    """
    moved = row.transformation
    if axis == "size":
        return None if moved else str(row.patch_height)
    if not moved:
        return _ORIGIN[axis]
    found = _MOVED.fullmatch(moved)
    return found[axis] if found else None


def ordered(places: Iterable[str]) -> list[str]:
    """Sizes and angles by value, shifts by their length.

    >>> ordered(["10", "8", "10"]), ordered(["8,8", "0,0", "-2,2"])
    (['8', '10'], ['0,0', '-2,2', '8,8'])
    """
    return sorted(set(places), key=lambda place: (math.hypot(*numbers(place)) if "," in place else 0.0, numbers(place)))


def numbers(place: str) -> list[float]:
    """A place of an axis as numbers: one, or the two of a shift."""
    return [float(part) for part in place.split(",")]


def _pages(rows: Sequence[Row], by: str, title: str, parts: tuple[str, ...]) -> Iterator[Page]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        for source in _sources(row):
            groups[row.attack, source, row.seen].append(row)
    for (attack, source, seen), own in sorted(groups.items()):
        if source != WHITE_BOX and all(row.lineage == SAME_NETWORK for row in own):
            continue  # already the white-box picture
        told = f"{attack}{f' ({seen})' if seen else ''}, {source}"
        for axis in AXES:
            sizes = [""] if axis == "size" else sorted({row.size for row in own})
            for size in sizes:
                lines = _lines([row for row in own if size in ("", row.size)], by, axis)
                if max(map(len, lines.values()), default=0) > 1:
                    named = (axis, by.removeprefix("target_"), *parts, attack, seen, source, size)
                    yield Page(axis, by, lines, f"{title}\n{f'{size} ' if size else ''}{told}", named)


def _lines(rows: Sequence[Row], by: str, axis: str) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        place = place_of(row, axis)
        if place is not None:
            found[row.text(by)].setdefault(place, row)
    names = sorted(found, key=bits_order) if by == "target_bits" else [*found]
    return {name: {place: found[name][place] for place in ordered(found[name])} for name in names}


def _sources(row: Row) -> Iterator[str]:
    """Where a patch is from, in words; one crafted at 32 bits on the float network itself counts twice."""
    if row.lineage == SAME_NETWORK:
        yield WHITE_BOX
        if row.source_bits != FLOAT_BITS:
            return
    owner = [] if row.source_model == row.model else [row.source_model]
    owner += [] if row.source_defense == row.defense else [f"defense {row.source_defense}"]
    owner += [] if row.source_preprocessor == row.preprocessor else [f"preprocessor {row.source_preprocessor}"]
    mode = "" if row.source_quantization in (FLOAT_MODE, row.quantization) else f" ({row.source_quantization})"
    several = not any(letter.isdigit() for letter in row.source_bits)  # an ensemble
    bits = "on several bit-widths" if several else f"at {row.source_bits} bits{mode}"
    yield " ".join(["crafted", bits, *(["on", ", ".join(owner)] if owner else [])])


def _network(row: Row) -> tuple[str, str, str, str, str]:
    return row.dataset, row.model, row.preprocessor, row.quantization, row.target_bits
