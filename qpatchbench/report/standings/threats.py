"""Threats: the columns of the standings, and the rows of a log that fall under each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qpatchbench.report.leaderboard.keys import FLOAT_BITS
from qpatchbench.report.leaderboard.row import EXTERNAL, SAME_NETWORK, Row

WHOLE_IMAGE = 100.0  # percent of an image: what changes every pixel is no patch


class Threat(NamedTuple):
    """A column: its heading, and what its numbers are."""

    title: str
    meaning: str


THREATS: Mapping[str, Threat] = {
    "clean": Threat("clean", "% of all images classified correctly without a patch"),
    "random": Threat("random", "uniform noise of the board's size at the same places: what occlusion does anyway"),
    "from_32": Threat("from 32 bits", "crafted at 32 bits on another network, such as the float form of this one"),
    "other_bits": Threat("from other bits", "crafted at other bits than 32 on another network; the worst of them"),
    "seen": Threat("seen", "from the pool of patches that defenses may train on"),
    "unseen": Threat("unseen", "from the pool that is kept from every training"),
    "ensemble": Threat("ensemble", "crafted on several networks at once, this one among them"),
    "external": Threat("from elsewhere", "made by others, for networks that nobody has to name; the worst of them"),
    "white_box": Threat("white box", "crafted on this very network; the worst attack"),
    "worst": Threat(
        "worst case",
        "% of the images classified correctly that at least one patch of the board's size fools, whatever its attack "
        "and source; >= where outcomes of single images are not at hand",
    ),
    "certified": Threat("certified", "% of all images that provably keep their label under any patch of this size"),
}
ACCURACIES = frozenset({"clean", "certified"})  # the higher, the better; all others are rates of success
OF_ROWS = ("from_32", "other_bits", "seen", "unseen", "ensemble", "external", "white_box")  # a rate of one row each
RANKED = ("clean", *OF_ROWS, "worst", "certified")


def threats_of(row: Row) -> tuple[str, ...]:
    """Columns in which a row may decide; none for controls and for patches that were moved after crafting."""
    if row.transformation or not is_crafted(row):
        return ()
    if row.lineage == EXTERNAL:
        return ("external",)
    # A patch that was crafted without the preprocessor knows another network than the one it meets.
    own = row.lineage == SAME_NETWORK and row.source_preprocessor == row.preprocessor
    if row.seen in ("seen", "unseen"):
        return (row.seen, *(("white_box",) if own else ()))
    if own:
        return ("white_box",)
    if row.lineage == "ensemble":
        return ("ensemble",)
    return ("from_32",) if row.source_bits == FLOAT_BITS else ("other_bits",)


def is_crafted(row: Row) -> bool:
    """Whether the row is no control: somebody made its patch to fool a network."""
    return bool(row.source_model) or row.lineage == EXTERNAL


def is_patch(row: Row) -> bool:
    """Whether the row changes a part of the image only."""
    return not row.number("area_percent") >= WHOLE_IMAGE


def board_size(rows: Iterable[Row]) -> str:
    """The size of most white-box rows; of most rows, then the larger one, where that leaves a choice.

    Changes of whole images count only where there is nothing else.
    """
    known = [row for row in rows if is_crafted(row)]
    known = [row for row in known if is_patch(row)] or known
    own = Counter(row.size for row in known if "white_box" in threats_of(row))
    every = Counter(row.size for row in known)
    return max(every, key=lambda size: (own[size], every[size], side(size)), default="")


def sizes_of_threats(rows: Sequence[Row], size: str) -> dict[str, str]:
    """Per threat the size that its column shows: `size`, or of those measured the nearest, of two the larger."""
    found: dict[str, str] = {}
    for threat in OF_ROWS:
        known = {row.size for row in rows if threat in threats_of(row) and is_patch(row)}
        known = known or {row.size for row in rows if threat in threats_of(row)}
        if known:
            found[threat] = min(known, key=lambda other: (round(abs(side(other) - side(size)), 6), -side(other)))
    return found


def side(size: str) -> float:
    """Side in pixels of a square of the same area.

    >>> side("4x9")
    6.0
    """
    height, width = size.split("x")
    return math.sqrt(int(height) * int(width))
