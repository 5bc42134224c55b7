"""Tables between markers of a Markdown file, filled by the command that the marker states."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from qpatchbench.errors import QPatchBenchError

BEGINNING, END = "<!-- qpatchbench leaderboard ", "<!-- end of leaderboard -->"
_BLOCK = re.compile(rf"^({re.escape(BEGINNING)}([^\n]*) -->\n).*?^({re.escape(END)})$", re.MULTILINE | re.DOTALL)


def filled(text: str, table: Callable[[Sequence[str]], str]) -> str:
    """`text` with every block between markers made anew.

    Args:
        text: with blocks from `<!-- qpatchbench leaderboard ARGUMENTS -->` to `<!-- end of leaderboard -->`.
        table: the Markdown that the arguments ask for.

    Raises:
        QPatchBenchError: no block.
    """
    if not _BLOCK.search(text):
        raise QPatchBenchError(f"expected a block from {BEGINNING}ARGUMENTS --> to {END}, found none")
    return _BLOCK.sub(lambda found: f"{found[1]}\n{table(shlex.split(found[2]))}\n{found[3]}", text)
