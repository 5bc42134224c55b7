"""A suite file cannot make its reader wait, or take more than a file of its size is worth."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from qpatchbench.errors import SuiteError
from qpatchbench.suite.file.load import load_suite
from qpatchbench.suite.file.source import read_source


def refused(path: Path, text: str) -> str:
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(SuiteError) as caught:
        read_source(path)
    assert time.process_time() - started < 5, "seconds"
    (problem,) = caught.value.problems
    return problem.removeprefix(f"{path}:")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "suite.yaml"


@pytest.mark.parametrize("leaf", ["{k: 1}", "{}"])
def test_merges_of_merges_are_counted(leaf: str, path: Path) -> None:
    """Under 1 kB; every line doubles the keys, so that the last has more than there is time to look at."""
    lines = [f"a0: &a0 {leaf}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 25))]
    assert refused(path, "\n".join(lines)) == "1:1: expected at most 100,000 keys merged with <<, found more"
    assert path.stat().st_size < 1000


def test_aliases_of_aliases_are_counted(path: Path) -> None:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    assert refused(path, "\n".join(lines)) == "1:1: expected at most 10000 values, found more"


def test_a_mapping_that_merges_itself_is_named(path: Path) -> None:
    assert "found" in refused(path, "a: &a {<<: *a, b: 1}")


@pytest.mark.parametrize("number", ["1" * 50_000, ":".join(["1"] * 20_000), "0x" + "f" * 50_000, "1_" * 20_000 + "1"])
def test_a_number_that_takes_long_to_read_is_none(number: str, path: Path) -> None:
    found = refused(path, f"suite: {number}")
    assert found.startswith("1:8: suite: expected a number, found ")
    assert found.endswith(" characters")


def test_a_file_larger_than_any_suite_is_not_read(path: Path) -> None:
    path.write_text("# " + "x" * 300_000)
    with pytest.raises(
        SuiteError, match="suite.yaml: expected a YAML text file, found one that cannot be read"
    ) as caught:
        read_source(path)
    assert str(caught.value).endswith(": expected at most 0.2 MB, found 0.3 MB")


def test_a_pipe_and_a_device_are_refused_at_once(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(SuiteError, match="cannot be read: expected a regular file, found a pipe$"):
        read_source(path)
    with pytest.raises(SuiteError, match="cannot be read: expected a regular file, found a device$"):
        read_source(Path("/dev/zero"))


SUITE = """
suite: labels
description: {description}
dataset: {{name: fake, image_size: 16}}
models: [{{name: resnet20, label: {label}}}]
defenses: [qat]
quantizers: [{{name: qat, bits: [32, 4]}}]
attacks: [{{name: lavan, size: 4}}]
"""
EXPECTED = (
    "expected printable text on one line, of at most 100 characters, that starts with a letter or a digit and holds no "
    "image, link or tag"
)


@pytest.mark.parametrize(
    "label", ["ResNet-20 (ours)", "λ = 0.1, β → 0", "2 bits", "é", "a [b]", "50 % > 1", "a < b", "a|b", "x" * 100]
)
def test_what_a_table_can_show_is_a_label(label: str, path: Path) -> None:
    path.write_text(SUITE.format(label=f'"{label}"', description='"two\\nlines"'))
    assert load_suite(path).models[0].title == label


@pytest.mark.parametrize(
    "label",
    [
        '=HYPERLINK("x")', "+1", "-1", "@sum", " a", "a ", "\t=1", "![x](y)", "a ![x](y)", "[a](b)", "<img src=x>",
        "a</b", "a[b][c]", "a\nb", "a\x1b[31m", "a\u202eb", "a\u200bb", "x" * 101, "_a", "",
    ],
)  # fmt: skip
def test_what_a_table_takes_for_something_else_is_no_label(label: str, path: Path) -> None:
    escaped = label.encode("unicode_escape").decode().replace('"', '\\"')
    path.write_text(SUITE.format(label=f'"{escaped}"', description="x"))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:5:34: models[0].label: expected ")
    if label:
        assert problem == f"{path}:5:34: models[0].label: {EXPECTED}, found {ascii(label)}"


def test_a_description_is_text(path: Path) -> None:
    path.write_text(SUITE.format(label="a", description='"a\\x1b[2J"'))
    with pytest.raises(SuiteError, match=r"3:14: description: expected printable text, found 'a\\x1b\[2J'$"):
        load_suite(path)
