"""Facts about a component without importing it: its class is found in the source by parsing.

`qpatchbench list` imports no component; the lines of the built-ins stand in their catalogues, and those of a plugin are
the first sentence of the class's docstring and the text of its class attribute `reference`.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from qpatchbench.errors import PluginError

MOST_HOPS = 4  # from a package that passes a class on to the module that defines it


class Line(NamedTuple):
    """Summary and reference; empty where the source does not say."""

    summary: str = ""
    reference: str = ""


def line_of(target: str) -> Line:
    """The catalogue line of "module:Class".

    Raises:
        PluginError: the target is none, there is no such module, its source is no Python, or it has no such class;
            says where.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise PluginError(f"expected module:Class as its target, found {target!r}")
    for _ in range(MOST_HOPS):
        path = _source_file(module)
        if path is None:
            return Line()
        tree = _parsed(path)
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return Line(first_sentence(ast.get_docstring(node) or ""), _reference(node))
        passed_on = _passed_on(tree, module, path, name)
        if passed_on is None:
            _require_bound(tree, name, path)
            return Line()
        module, name = passed_on
    return Line()


def first_sentence(docstring: str) -> str:
    r"""The first sentence on one line, without its full stop.

    >>> first_sentence("Blurs the image\n    a little. Then sharpens it.")
    'Blurs the image a little'
    """
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix(".")


def _reference(node: ast.ClassDef) -> str:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            targets: list[ast.expr] = [statement.target]
        elif isinstance(statement, ast.Assign):
            targets = statement.targets
        else:
            continue
        value = statement.value
        named = any(isinstance(item, ast.Name) and item.id == "reference" for item in targets)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def _source_file(module: str) -> Path | None:
    """The source of a module; none of its parents is imported, as `importlib.util.find_spec` would.

    Raises:
        PluginError: there is no such module.
    """
    top, *below = module.split(".")
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for part in below:
        if spec is None:
            break
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None:
        raise PluginError(f"there is no module {name!r} on the Python path")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise PluginError(f"{path}:{error.lineno or 1}: SyntaxError: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise PluginError(f"{path}: {type(error).__name__}: {error}") from None


def _require_bound(tree: ast.Module, name: str, path: Path) -> None:
    """Refuse a module in which nothing can have that name, however it is made."""
    for node in ast.walk(tree):
        names = [alias.asname or alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        if isinstance(node, ast.Name):
            names = [node.id]
        if {name, "*", "__getattr__"} & set(names):
            return
    raise PluginError(f"expected a class {name} in {path}, found none")


def _passed_on(tree: ast.Module, module: str, path: Path, name: str) -> tuple[str, str] | None:
    """Module and class that `from there import Class [as name]` gets `name` from."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                return ".".join([*above, *([node.module] if node.module else [])]), alias.name
    return None
