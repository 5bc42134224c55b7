"""Values without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    """The values without repetition, in order of first appearance."""
    return tuple(dict.fromkeys(values))
