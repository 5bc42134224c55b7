"""The names within a plugin package, from the one name that its author gives."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from functools import cached_property

from qpatchbench.errors import QPatchBenchError

LONGEST = 30  # so that lines with the name in them stay readable
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """The names of a plugin package.

    Attributes:
        kind: singular word of the registry, for example "defense".
        name: what suites call the component, in snake_case.
    """

    kind: str
    name: str

    @cached_property
    def module(self) -> str:
        """The module of the component; the prefix keeps it from hiding another module, such as `json`."""
        return f"qpatchbench_{self.name}"

    @cached_property
    def distribution(self) -> str:
        """What pip calls the package, and its folder."""
        return self.module.replace("_", "-")

    @cached_property
    def class_name(self) -> str:
        """The component's class, in CamelCase.

        >>> Names("attack", "signed_patch").class_name
        'SignedPatch'
        """
        return "".join(word.capitalize() for word in self.name.split("_"))


def checked_names(kind: str, name: str, occupied: frozenset[str] = frozenset()) -> Names:
    """The names that follow from `name`.

    Args:
        kind: singular word of the registry.
        name: as the author typed it.
        occupied: identifiers that the class may not be called by, because its file uses them otherwise.

    Raises:
        QPatchBenchError: too long, not in snake_case (says the nearest name that is), or the class name is not free.
    """
    if not SNAKE_CASE.fullmatch(name):
        nearest = nearest_name(name) or f"my_{kind}"
        raise QPatchBenchError(
            f"expected a name in snake_case (lower-case letters, digits and single underscores, a letter first), found "
            f"{name!r}. Nearest: {nearest}"
        )
    if len(name) > LONGEST:
        found = f"{name!r}, which has {len(name)}"
        raise QPatchBenchError(f"expected a name of at most {LONGEST} characters, found {found}")
    names = Names(kind, name)
    if keyword.iskeyword(names.class_name) or names.class_name in occupied:
        raise QPatchBenchError(
            f"expected a name whose class is free, found {name!r}: {names.class_name} means something else in the file "
            f"that is written. Nearest: {name}_{kind}"
        )
    return names


def nearest_name(name: str) -> str:
    """The name in snake_case that is closest to `name`, or "" if nothing of it remains.

    >>> nearest_name("Patch-Shield v2")
    'patch_shield_v2'
    >>> nearest_name("HTTPGuard")
    'http_guard'
    """
    words = re.sub(r"([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\3_\2", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_").lstrip("0123456789_")
