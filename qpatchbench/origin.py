"""The place of a component's code from outside, and the SHA-256 that identifies it.

Hashed is the Python source of the class and of every component that it inherits from, as far as it lies outside of
qpatchbench: of a module that stands alone, its file; of a module of a package, every .py file of the top-level package.
One file has the SHA-256 of its bytes; several have that of the lines "<SHA-256>  <path>" that `sha256sum` would print
for them, sorted. What a plugin imports from other distributions, and data files, are not part of it.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "qpatchbench"


def is_outside(component: type[Any]) -> bool:
    """Whether a class is no part of this package."""
    return component.__module__.partition(".")[0] != OURS


@functools.cache
def source_hash(component: type[Any]) -> str:
    """SHA-256 of the source of a class from outside, 64 hex digits; "" for code that was typed in and has no file."""
    files = dict(sorted(_sources(component)))
    digests = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()}
    if len(digests) < 2:
        return next(iter(digests.values()), "")
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in digests.items()).encode()).hexdigest()


def _sources(component: type[Any]) -> Iterator[tuple[str, Path]]:
    """Path relative to the folder that is on the Python path, and file."""
    # The classes it inherits from that are components too have a `version`.
    names = {cls.__module__ for cls in component.__mro__ if is_outside(cls) and hasattr(cls, "version")}
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not Path(file).is_file():
            continue
        root = _top_folder(Path(file), name)
        if root is None:
            yield Path(file).name, Path(file)
        else:
            for path in root.rglob("*.py"):
                yield path.relative_to(root.parent).as_posix(), path


def _top_folder(file: Path, name: str) -> Path | None:
    """The folder of the top-level package that holds a module, or None for a module that stands alone."""
    folder, above = None, file.parent
    for _ in range(name.count(".") + (file.name == "__init__.py")):
        if not (above / "__init__.py").is_file():  # a namespace package, which others may share
            break
        folder, above = above, above.parent
    return folder
