"""Every mistake in a suite is met by its place, what was expected, what was found and the nearest right thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from qpatchbench.cli import cli
from qpatchbench.errors import SuiteError
from qpatchbench.registry import REGISTRIES
from qpatchbench.suite.file.load import load_suite

FOLDER = Path(__file__).parent / "broken"
SUITES = sorted(path.name for path in FOLDER.glob("*.yaml"))
UNFINISHED = " ..."  # ends an expectation whose rest follows from a library's version or from a list of fields
JARGON = (
    "Input should",
    "String should",
    "Value error",
    "function-plain",
    "literal[",
    "tuple[",
    "Traceback",
    "NoneType",
)


def expectations() -> dict[str, list[str]]:
    """Suite -> its problems, from expected.txt; <attacks> stands for the names that are registered."""
    expected: dict[str, list[str]] = defaultdict(list)
    for line in (FOLDER / "expected.txt").read_text(encoding="utf-8").splitlines():
        for kind, registry in REGISTRIES.items():
            line = line.replace(f"<{kind}>", ", ".join(registry.entries))
        expected[line.partition(":")[0]].append(line)
    return expected


EXPECTED = expectations()


def problems_of(name: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load_suite(Path(name))
    return list(caught.value.problems)


def shortened(found: Sequence[str], name: str) -> list[str]:
    """The problems of a suite, each cut where its expectation leaves the rest open."""
    expected = EXPECTED[name]
    cut = [
        text[: len(wanted) - len(UNFINISHED)] + UNFINISHED if wanted.endswith(UNFINISHED) else text
        for text, wanted in zip(found, expected, strict=False)
    ]
    return [*cut, *found[len(expected) :]]


def test_every_broken_suite_has_an_expectation() -> None:
    assert set(SUITES) == set(EXPECTED)
    assert len(SUITES) >= 70


@pytest.mark.parametrize("name", SUITES)
def test_problems_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    found = problems_of(name)
    assert shortened(found, name) == EXPECTED[name]
    assert not [word for word in JARGON for text in found if word in text]


def test_a_misspelt_timm_name_has_a_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # timm is asked while the component is made: its answer must come out as a problem of the suite.
    monkeypatch.chdir(FOLDER)
    (problem,) = problems_of("misspelt_timm_model.yaml")
    assert "'resnet1818'. Did you mean: resnet18? Available: " in problem


def test_all_mistakes_of_a_file_are_told_at_once_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    places = [tuple(int(part) for part in text.split(":")[1:3]) for text in problems_of("several.yaml")]
    assert len(places) == 11
    assert places == sorted(places)


def test_a_misspelt_required_section_is_one_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    assert len(problems_of("unknown_required_section.yaml")) == 1


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
@pytest.mark.parametrize("name", ["several.yaml", "tab.yaml", "several_contradictions.yaml", "binary.yaml"])
def test_commands_refuse_and_write_nothing(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("QPATCHBENCH_CACHE", str(tmp_path / "cache"))
    output = ["--output", str(tmp_path / "out")] if command == "run" else []
    result = CliRunner().invoke(cli, [command, name, *output], standalone_mode=False)
    if command == "validate":
        assert result.return_value == 2
        count = len(EXPECTED[name])
        total = f"{name}: invalid, {count} {'error' if count == 1 else 'errors'}"
        *problems, last = result.stderr.splitlines()
        assert shortened(problems, name) == EXPECTED[name]
        assert last == total
    else:
        assert isinstance(result.exception, SuiteError)
        assert shortened(result.exception.problems, name) == EXPECTED[name]
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_prints_every_problem_and_exits_with_2(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "QPATCHBENCH_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    result = subprocess.run(
        [sys.executable, "-m", "qpatchbench", "run", "several.yaml", "--output", str(tmp_path / "out")],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert shortened(result.stderr.splitlines(), "several.yaml") == EXPECTED["several.yaml"]
    assert list(tmp_path.iterdir()) == []
