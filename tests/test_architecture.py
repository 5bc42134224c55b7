"""Rules of the house: what may import what, what a catalogue line promises, and what listing may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qpatchbench
from qpatchbench.component import Component
from qpatchbench.registry import BUILT_IN, REGISTRIES

PACKAGE = Path(qpatchbench.__file__).parent
COMPONENTS = ("attacks", "defenses", "quantizers", "models", "data", "preprocessors")
# Each layer may import itself, those below it, and nothing above.
LAYERS = {
    "__main__": 11,
    "cli": 10,
    "api": 9,
    "papers": 8,
    **dict.fromkeys(("report", "suite", "testing"), 7),
    **dict.fromkeys(("evaluation", "training"), 6),
    **dict.fromkeys(COMPONENTS, 5),
    "ops": 4,
    "scaffold": 4,
    **dict.fromkeys(("component", "runs", "statistics", "registry"), 3),
    **dict.fromkeys(("importing", "origin"), 2),
    "types": 1,
    "errors": 0,
    "labels": 0,
}
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(PACKAGE).with_suffix("").parts), path


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """qpatchbench modules that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.startswith("qpatchbench."):
                yield name.removeprefix("qpatchbench.")


def test_imports_point_downwards() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules()
        if part_of(module) != "__init__"
        for imported in imports(path)
        if LAYERS[part_of(imported)] > LAYERS[part_of(module)]
    ]
    assert wrong == []


def test_component_packages_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules()
        if part_of(module) in COMPONENTS
        for imported in imports(path)
        if part_of(imported) in COMPONENTS and part_of(imported) != part_of(module)
    ]
    assert wrong == []


def test_report_and_suite_do_not_know_each_other() -> None:
    pair = {"report", "suite"}
    wrong = [
        f"{module} imports {imported}"
        for module, path in modules()
        if part_of(module) in pair
        for imported in imports(path)
        if part_of(imported) in pair - {part_of(module)}
    ]
    assert wrong == []


def test_names_say_what_a_module_is() -> None:
    assert [module for module, _ in modules() if FORBIDDEN & set(module.split("."))] == []


def test_the_runner_knows_no_component_by_name() -> None:
    built_in = {name for kind in ("attacks", "defenses", "models", "datasets") for name in REGISTRIES[kind].entries}
    built_in |= {"ptq", "dynamic"}
    # The baseline that defenses start from, and the controls that the definition of ASR asks for.
    # "ensemble" is also the word of a suite for several sources at once, "file" that of a manifest for a file.
    allowed = {"none", "random", "grey", "fake", "digits", "ensemble", "file"}
    wrong = []
    for module, path in modules():
        if part_of(module) not in ("suite", "evaluation", "training"):
            continue
        constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
        wrong += [f"{module}:{node.lineno}: {node.value!r}" for node in constants if node.value in built_in - allowed]
    assert wrong == []


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_catalogue_line_leads_to_a_documented_component(kind: str) -> None:
    registry = REGISTRIES[kind]
    for name, entry in registry.entries.items():
        if entry.plugin != BUILT_IN:  # installed by someone who contributes one; `plugin check` holds it to more
            continue
        component = registry.get(name)
        assert issubclass(component, Component), name
        assert component.__doc__, name
        assert entry.summary, name
        assert not entry.summary.endswith("."), name
        for field, facts in component.model_fields.items():
            assert field == "name" or facts.description, f"{kind} {name}: the field {field} has no description"


def test_listing_and_describing_load_no_torch() -> None:
    code = """
import sys
from qpatchbench.cli.lazy_torch import defer
defer("torch")
from qpatchbench.registry import BUILT_IN, REGISTRIES
for registry in REGISTRIES.values():
    for name in registry.entries:
        registry.get(name).model_json_schema()
import qpatchbench.suite.file.load, qpatchbench.suite.plan.plan, qpatchbench.suite.store.store
import qpatchbench.suite.plan.fingerprints
import qpatchbench.report.page.build, qpatchbench.runs.records
assert "torch._C" not in sys.modules
import torch
assert torch.ones(2).sum() == 2
assert torch.nn.functional.relu(torch.tensor(-1.0)) == 0
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_store_report_and_what_drives_a_cluster_import_without_torch_even_undeferred() -> None:
    code = """
import sys
import qpatchbench.suite.store.store, qpatchbench.runs.records, qpatchbench.report.page.build
import qpatchbench.suite.execution.workers.ray_driver
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
