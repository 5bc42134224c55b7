"""The hash that identifies the code of a component from outside."""

from __future__ import annotations

import hashlib
import importlib
import os
import py_compile
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qpatchbench.attacks.gap import Gap
from qpatchbench.component import Component
from qpatchbench.origin import THIS_PROCESS, is_outside, source_hash
from qpatchbench.registry import REGISTRIES, Registry
from qpatchbench.runs.reading import identity_of
from tests.distributions import as_if_started_now, write

SMALL = "from qpatchbench.component import Component\n\n\nclass Small(Component):\n    'Small.'\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the Python path, whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    with as_if_started_now():
        yield tmp_path


def loaded(module: str, name: str = "Small") -> Any:  # noqa: ANN401 (a class of a module just written)
    return getattr(importlib.import_module(module), name)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_module_that_stands_alone_has_the_hash_of_its_file(folder: Path) -> None:
    write(folder, {"alone_plugin.py": SMALL, "beside.py": "x = 1\n"})
    assert source_hash(loaded("alone_plugin")) == sha256(SMALL.encode())


def test_a_package_has_the_hash_of_what_sha256sum_prints(folder: Path) -> None:
    files = {
        "several_plugin/__init__.py": "",
        "several_plugin/deep/__init__.py": "from several_plugin.deep.part import Small\n",
        "several_plugin/deep/part.py": SMALL,
        "several_plugin/arithmetic.py": "x = 1\n",
    }
    write(folder, {**files, "other.py": "x = 1\n"})
    lines = [f"{sha256(text.encode())}  {path}\n" for path, text in sorted(files.items())]
    expected = sha256("".join(lines).encode())
    assert source_hash(loaded("several_plugin.deep.part")) == expected
    write(folder, {"several_plugin/arithmetic.py": "x = 2\n"})
    source_hash.cache_clear()
    assert source_hash(loaded("several_plugin.deep.part")) != expected


def test_a_class_in_the_package_itself_has_the_same_hash_as_one_below(folder: Path) -> None:
    write(folder, {"own_plugin/__init__.py": SMALL, "own_plugin/part.py": SMALL})
    assert source_hash(loaded("own_plugin")) == source_hash(loaded("own_plugin.part"))


def test_a_namespace_that_distributions_share_is_not_hashed_as_a_whole(folder: Path) -> None:
    write(folder, {"shared_namespace/one.py": SMALL, "shared_namespace/two/__init__.py": SMALL})
    assert source_hash(loaded("shared_namespace.one")) == sha256(SMALL.encode())
    before = source_hash(loaded("shared_namespace.two"))
    write(folder, {"shared_namespace/one.py": f"{SMALL}# changed\n"})
    source_hash.cache_clear()
    assert source_hash(loaded("shared_namespace.two")) == before


def test_what_a_component_inherits_from_belongs_to_it(folder: Path) -> None:
    child = "from parent_plugin import Small\n\n\nclass Child(Small):\n    'Child.'\n"
    write(folder, {"parent_plugin.py": SMALL, "child_plugin.py": child})
    lines = [f"{sha256(child.encode())}  child_plugin.py\n", f"{sha256(SMALL.encode())}  parent_plugin.py\n"]
    assert source_hash(loaded("child_plugin", "Child")) == sha256("".join(lines).encode())


def test_code_without_a_file_has_no_hash() -> None:
    typed: dict[str, Any] = {"__name__": "typed_in"}
    exec(SMALL, typed)
    assert is_outside(typed["Small"])
    assert source_hash(typed["Small"]) == ""


def test_the_source_is_part_of_the_identity_of_components_from_outside(folder: Path) -> None:
    write(folder, {"identified_plugin.py": SMALL})
    small: Component = loaded("identified_plugin")(name="small")
    assert small.identity() == {
        "class": "identified_plugin:Small",
        "version": 1,
        "source hash": sha256(SMALL.encode()),
        "name": "small",
    }


@pytest.mark.parametrize("kind", REGISTRIES)
def test_built_in_components_are_identified_by_their_version_alone(kind: str) -> None:
    for name in REGISTRIES[kind].entries:
        cls = REGISTRIES[kind].get(name)
        if set(cls.files) - {"weights"}:
            continue  # the files that it names identify it too: test_own_network.py, test_file_patches.py
        given = {"name": name.replace("<name>", "resnet18"), "size": 2, "bits": [4], "classes": 3, "path": "folder"}
        component = cls(**{field: given[field] for field, facts in cls.model_fields.items() if facts.is_required()})
        assert component.identity()["class"].startswith("qpatchbench.")
        assert "source hash" not in component.identity()


@pytest.mark.parametrize(
    ("files", "edited"),
    [
        ({"main_plugin.py": f"import helping\n{SMALL}", "helping.py": "x = 1\n"}, "helping.py"),
        (
            {"main_plugin.py": f"import helping\n{SMALL}", "helping.py": "import deeper\n", "deeper.py": "x = 1\n"},
            "deeper.py",
        ),
        (
            {"main_plugin.py": f"from parts.one import x\n{SMALL}", "parts/__init__.py": "", "parts/one.py": "x = 1\n"},
            "parts/one.py",
        ),
        ({"main_plugin.py": f"def late():\n    import helping\n\n\n{SMALL}", "helping.py": "x = 1\n"}, "helping.py"),
        ({"main_plugin.py": f"TABLE = 'tables/steps.csv'\n{SMALL}", "tables/steps.csv": "1\n"}, "tables/steps.csv"),
        ({"main_plugin/__init__.py": SMALL, "main_plugin/steps.json": "[1]"}, "main_plugin/steps.json"),
    ],
)
def test_what_a_plugin_uses_of_its_own_identifies_it_too(folder: Path, files: dict[str, str], edited: str) -> None:
    write(folder, {**files, "unrelated.py": "x = 1\n"})
    component = loaded("main_plugin")
    before = source_hash(component)
    write(folder, {"unrelated.py": "x = 2\n"})
    source_hash.cache_clear()
    assert source_hash(component) == before
    write(folder, {edited: f"{files[edited]}\n"})
    source_hash.cache_clear()
    assert source_hash(component) != before


def test_code_that_is_not_what_its_module_holds_has_no_hash(folder: Path) -> None:
    write(folder, {"holding_plugin.py": SMALL})
    assert source_hash(loaded("holding_plugin"))
    typed: dict[str, Any] = {"__name__": "holding_plugin"}
    exec(SMALL, typed)
    assert source_hash(typed["Small"]) == ""


def test_a_child_of_code_that_has_no_file_has_no_hash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fileless_plugin")
    exec(SMALL, vars(module))
    monkeypatch.setitem(sys.modules, "fileless_plugin", module)
    write(folder, {"child_of_typed.py": "from fileless_plugin import Small\n\n\nclass Child(Small):\n    'Child.'\n"})
    child = loaded("child_of_typed", "Child")
    assert source_hash(child) == ""
    assert child(name="child").unidentified == "no file holds the source of child_of_typed:Child"
    assert child(name="child").identity()["known to"] == THIS_PROCESS


def test_a_module_without_source_has_the_hash_of_its_byte_code(folder: Path) -> None:
    write(folder, {"source/compiled_plugin.py": SMALL})
    py_compile.compile(str(folder / "source" / "compiled_plugin.py"), str(folder / "compiled_plugin.pyc"))
    assert source_hash(loaded("compiled_plugin")) == sha256((folder / "compiled_plugin.pyc").read_bytes())


def test_a_file_system_without_inodes_or_times_of_change_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"1")
    known = list((tmp_path / "image").stat())
    assert THIS_PROCESS not in identity_of((tmp_path / "image").stat())
    assert THIS_PROCESS in identity_of(os.stat_result([known[0], 0, *known[2:]]))


def test_a_class_that_claims_a_built_ins_module_is_from_outside() -> None:
    """Its module has to hold it, not one that bears its name."""
    claimed = type("Gap", (Gap,), {"__module__": "qpatchbench.attacks.gap"})
    other = type("Mine", (Gap,), {"__module__": "qpatchbench.attacks.gap"})
    absent = type("Gap", (Gap,), {"__module__": "qpatchbench.attacks.absent"})
    assert not is_outside(Gap)
    assert all(is_outside(cls) for cls in (claimed, other, absent))
    assert all(not is_outside(component) for registry in REGISTRIES.values() for component in built_ins(registry))


def built_ins(registry: Registry) -> list[type[Any]]:
    return [registry.get(name) for name in registry.entries]
