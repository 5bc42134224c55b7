"""Plugin packages that work as they are written: a component, its test, a suite and a README for every kind.

Each kind has a folder of templates beside this file; what all kinds share is in `shared`. A template is the file it
becomes, with `$placeholders` for names.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from string import Template

from qpatchbench import __version__
from qpatchbench.registry import REGISTRIES, Registry
from qpatchbench.scaffold.naming import Names, checked_names

TEMPLATES = Path(__file__).parent
# What to type in the folder of a new package, in this order.
FIRST_COMMANDS = (
    "pip install --editable .",
    "qpatchbench plugin check {module}",
    "pytest",
    "qpatchbench run suite.yaml",
)
KINDS: Mapping[str, Registry] = {registry.kind: registry for registry in REGISTRIES.values()}


def scaffold(kind: str, name: str) -> dict[str, str]:
    """The files of a new plugin package.

    Args:
        kind: singular word of a registry, for example "defense".
        name: what suites will call the component, in snake_case.

    Returns:
        Path relative to the package's folder -> text.

    Raises:
        QPatchBenchError: `name` cannot be a component's name; says the nearest that can.
    """
    names = names_for(kind, name)
    words = {
        "kind": kind,
        "name": name,
        "module": names.module,
        "distribution": names.distribution,
        "class_name": names.class_name,
        "group": KINDS[kind].package,
        "commands": "\n".join(FIRST_COMMANDS).format(module=names.module),
        "requires": ".".join(__version__.split(".")[:2]),
    }
    places = {
        "pyproject.toml": "shared/pyproject.toml",
        "README.md": "shared/README.md",
        f"{names.module}.py": f"{kind}/component.py",
        f"tests/test_{name}.py": f"{kind}/test.py",
        "suite.yaml": f"{kind}/suite.yaml",
    }
    advice = _template(f"{kind}/contract.md").substitute(words).strip()
    return {path: _template(source).substitute(words, contract=advice) for path, source in places.items()}


def names_for(kind: str, name: str) -> Names:
    """The names of the package, its module and its class; errors as in `scaffold`."""
    # Templates are Python once their placeholders are words.
    written = (_template(f"{kind}/{part}.py").template.replace("$", "_") for part in ("component", "test"))
    return checked_names(kind, name, frozenset().union(*map(_identifiers, written)))


def _identifiers(code: str) -> frozenset[str]:
    """Names that a module reads or imports."""
    nodes = list(ast.walk(ast.parse(code)))
    imported = {node.asname or node.name for node in nodes if isinstance(node, ast.alias)}
    return frozenset(imported | {node.id for node in nodes if isinstance(node, ast.Name)})


def _template(source: str) -> Template:
    return Template((TEMPLATES / f"{source}.template").read_text(encoding="utf-8"))
