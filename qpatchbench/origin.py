"""The place of a component's code from outside, and the SHA-256 that identifies it.

Hashed is the Python source of the class and of every component that it inherits from, as far as it lies outside of
qpatchbench: of a module that stands alone, its file and the files beside it whose names stand in it as text; of a
module of a package, every file of the top-level package. So are the modules in the same folder, and of the same
distribution, that any of these imports, and what they import in turn.
One file has the SHA-256 of its bytes; several have that of the lines "<SHA-256>  <path>" that `sha256sum` would print
for them, sorted. What a plugin imports from other distributions, and files that it finds by other
means, are not part of it.

Code that no file holds, such as what was typed in, has no hash: nothing tells it from other code of the same name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "qpatchbench"
THIS_PROCESS = secrets.token_hex(16)  # in the place of a hash where there is none: no other process has the same


def is_outside(component: type[Any]) -> bool:
    """Whether a class is no part of this package, also where it says that it is: its module has to hold it."""
    if component.__module__.partition(".")[0] != OURS:
        return True
    return getattr(sys.modules.get(component.__module__), component.__name__, None) is not component


@functools.cache
def source_hash(component: type[Any]) -> str:
    """SHA-256 of the source of a class from outside, 64 hex digits; "" where some of its code has no file.

    That is code of `__main__`, which a notebook or a prompt types in, of `exec`, and of archives.
    """
    if not all(_has_source(cls) for cls in _own_classes(component)):
        return ""
    files = dict(sorted(_sources(component)))
    return _joined({path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()})


def file_hash(file: Path) -> str:
    """SHA-256 of a source file that a suite names, with what it imports from beside it; 64 hex digits.

    Hashed like a plugin's: the file, modules and packages of its folder that it imports, what these import in turn, and
    files beside them whose names stand in them as text. Nothing is imported.
    """
    files = {path.relative_to(file.parent).as_posix(): path for path in files_of(file)}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}
    return _joined(digests)


def files_of(file: Path) -> list[Path]:
    """A source file and everything beside it that belongs to it; the file first."""
    found: dict[Path, None] = {}
    wanted = [file]
    while wanted:
        path = wanted.pop()
        if path in found:
            continue
        found[path] = None
        if path.suffix == ".py":
            wanted += _data_beside(path)
            for name in _imported(path.read_bytes()) - {OURS}:
                package = file.parent / name
                if (package / "__init__.py").is_file():
                    wanted += _content(package)
                elif (file.parent / f"{name}.py").is_file():
                    wanted.append(file.parent / f"{name}.py")
    return list(found)


def _content(folder: Path) -> list[Path]:
    """Every file of a package, but for byte code."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _joined(digests: dict[str, str]) -> str:
    """One hash of several files: that of the lines which `sha256sum` would print for them."""
    if len(digests) < 2:
        return next(iter(digests.values()), "")
    return hashlib.sha256("".join(f"{digest}  {path}\n" for path, digest in digests.items()).encode()).hexdigest()


def _sources(component: type[Any]) -> Iterator[tuple[str, Path]]:
    """Path relative to the folder that is on the Python path, and file."""
    names = [cls.__module__ for cls in _own_classes(component)]
    seen: set[str] = set()
    while names:
        name = names.pop()
        file = _file_of(name)
        if name in seen or file is None:
            continue
        seen.add(name)
        root = _top_folder(file, name)
        found = _content(root) if root is not None else [file, *_data_beside(file)]
        for path in found:
            yield path.relative_to((root or file).parent).as_posix(), path
            if path.suffix == ".py":
                names += _imported_beside((root or file).parent, path, name.partition(".")[0])


def _own_classes(component: type[Any]) -> list[type[Any]]:
    """The class and those from outside that it inherits from and that are components too, which have a `version`."""
    return [cls for cls in component.__mro__ if is_outside(cls) and hasattr(cls, "version")]


def _has_source(cls: type[Any]) -> bool:
    """Whether the file of the module that a class names is where the class comes from."""
    if cls.__module__ == "__main__" or _file_of(cls.__module__) is None:
        return False
    found: object = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        if name == "<locals>":  # a class that a function makes
            return True
        found = getattr(found, name, None)
    return found is cls


def _file_of(name: str) -> Path | None:
    """The source of a module, imported or not yet."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec is not None else None
    return Path(file) if file is not None and Path(file).is_file() else None


def _imported_beside(folder: Path, file: Path, own: str) -> Iterator[str]:
    """Top-level modules that a source imports anywhere and that belong to it: in its folder, of its distribution."""
    for name in _imported(file.read_bytes()) - {own, OURS}:
        beside = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
        if beside and _distributions(name) == _distributions(own):
            yield name if (folder / f"{name}.py").is_file() else f"{name}.__init__"


@functools.lru_cache(maxsize=4096)  # the components of a package have the same files
def _imported(source: bytes) -> frozenset[str]:
    """Top-level modules that a source imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return frozenset(name.partition(".")[0] for name in names)


def _data_beside(file: Path) -> Iterator[Path]:
    """Files that lie beside a module, or below, and whose names stand in it as text."""
    for node in ast.walk(_tree(file.read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 200:
            try:
                path = (file.parent / node.value).resolve()
                if path.is_file() and path.is_relative_to(file.parent.resolve()) and path != file.resolve():
                    yield file.parent / path.relative_to(file.parent.resolve())
            except (OSError, ValueError):  # no name of a file at all
                continue


def _tree(source: bytes) -> ast.AST:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _distributions(name: str) -> frozenset[str]:
    """Distributions that install a top-level module; none for one that merely lies on the path."""
    return frozenset(_installed().get(name, ()))


@functools.cache
def _installed() -> dict[str, list[str]]:
    return {name: list(found) for name, found in importlib.metadata.packages_distributions().items()}


def _top_folder(file: Path, name: str) -> Path | None:
    """The folder of the top-level package that holds a module, or None for a module that stands alone."""
    folder, above = None, file.parent
    for _ in range(name.count(".") + (file.name == "__init__.py")):
        if not (above / "__init__.py").is_file():  # a namespace package, which others may share
            break
        folder, above = above, above.parent
    return folder
