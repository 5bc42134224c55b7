"""Goals of a patch: a class, or any wrong answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Targeted:
    """The patch shall make the network answer `class_id`."""

    class_id: int

    def __str__(self) -> str:
        return str(self.class_id)


@dataclass(frozen=True)
class Untargeted:
    """The patch shall make the network answer anything but the label."""

    def __str__(self) -> str:
        return "untargeted"


Goal: TypeAlias = Targeted | Untargeted


def parse_goal(text: str) -> Goal:
    """Invert `str(goal)`.

    >>> parse_goal("3")
    Targeted(class_id=3)
    """
    return Untargeted() if text == "untargeted" else Targeted(int(text))
