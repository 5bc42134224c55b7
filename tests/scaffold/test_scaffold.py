"""What the templates become: files that are complete, clean and consistent, for every kind and for any name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import qpatchbench
from qpatchbench.registry import REGISTRIES
from qpatchbench.scaffold import FIRST_COMMANDS, KINDS, TEMPLATES, scaffold

ROOT = Path(qpatchbench.__file__).parents[1]
NAME = "thing_of_mine"
LONG = "a_rather_long_name_of_thirty_x"


def written(kind: str, folder: Path, name: str = NAME) -> Path:
    for path, text in scaffold(kind, name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_every_kind_of_the_registry_has_templates() -> None:
    assert set(KINDS) == {registry.kind for registry in REGISTRIES.values()}
    folders = {path.name for path in TEMPLATES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*KINDS, "shared"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_is_complete(kind: str) -> None:
    files = scaffold(kind, NAME)
    module = f"qpatchbench_{NAME}"
    assert list(files) == ["pyproject.toml", "README.md", f"{module}.py", f"tests/test_{NAME}.py", "suite.yaml"]
    for path, text in files.items():
        assert "$" not in text, f"a placeholder is left in {path}"
        assert text.endswith("\n"), path
        assert not text.endswith("\n\n"), path
        assert "TODO" not in text, path
        assert not re.search(r"https?://|@[a-z]+\.|/home/|/tmp/", text), f"an address in {path}"
    assert scaffold(kind, NAME) == files, "nothing but kind and name decides"


@pytest.mark.parametrize("kind", KINDS)
def test_pyproject_names_the_class_that_is_written(kind: str) -> None:
    files = scaffold(kind, NAME)
    facts = tomllib.loads(files["pyproject.toml"])
    assert facts["project"]["name"] == "qpatchbench-thing-of-mine"
    assert "authors" not in facts["project"]
    ((group, points),) = facts["project"]["entry-points"].items()
    assert group == KINDS[kind].package
    assert points == {NAME: f"qpatchbench_{NAME}:ThingOfMine"}
    assert facts["tool"]["setuptools"]["py-modules"] == [f"qpatchbench_{NAME}"]
    tree = ast.parse(files[f"qpatchbench_{NAME}.py"])
    (component,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert component.name == "ThingOfMine"
    (base,) = (node.id for node in component.bases if isinstance(node, ast.Name))
    module, _, name = KINDS[kind].base.partition(":")
    assert base in files[f"qpatchbench_{NAME}.py"]
    sources = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert any(source.startswith(module.rpartition(".")[0]) for source in sources), name
    docstring = ast.get_docstring(tree) or ""
    assert re.search(r"\b(19|20)\d\d\b", docstring), "the first docstring says where the method is from"
    required = re.fullmatch(r"qpatchbench>=(\d+\.\d+)", facts["project"]["dependencies"][0])
    assert required is not None
    assert qpatchbench.__version__.startswith(f"{required[1]}.")


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_has_the_commands_and_the_suite_uses_the_component(kind: str) -> None:
    files = scaffold(kind, NAME)
    block = files["README.md"].split("```\n")[1]
    assert block.splitlines() == [command.format(module=f"qpatchbench_{NAME}") for command in FIRST_COMMANDS]
    assert f"The {kind} `{NAME}`" in files["README.md"]
    assert max(map(len, files["README.md"].splitlines())) <= 120
    suite = yaml.safe_load(files["suite.yaml"])
    assert suite["suite"] == NAME
    plural = next(plural for plural, registry in REGISTRIES.items() if registry.kind == kind)
    place = suite["dataset"] if kind == "dataset" else suite[plural]
    used = [
        item["name"] if isinstance(item, dict) else item for item in (place if isinstance(place, list) else [place])
    ]
    assert NAME in used
    assert files["suite.yaml"].startswith("# "), "the first line of a suite says what it is for"


def ruff(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_generated_code_is_clean_by_our_own_rules(kind: str, tmp_path: Path) -> None:
    result = ruff("check", "--config", str(ROOT / "pyproject.toml"), folder=written(kind, tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", [NAME, LONG, "x"])
def test_generated_code_is_clean_by_the_rules_it_is_written_with(name: str, tmp_path: Path) -> None:
    for kind in KINDS:
        written(kind, tmp_path / kind, name)
    result = ruff("check", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_generated_code_is_formatted(tmp_path: Path) -> None:
    for kind in KINDS:
        written(kind, tmp_path / kind)
    result = ruff("format", "--diff", folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_component_is_one_short_file(kind: str) -> None:
    assert len(scaffold(kind, NAME)[f"qpatchbench_{NAME}.py"].splitlines()) <= 110
