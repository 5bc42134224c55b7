"""Text for tables and terminals; the rest is tried where labels are given: suites, class folders, records, plugins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qpatchbench.data.base import Decoding
from qpatchbench.data.fake import Fake
from qpatchbench.errors import DataError, QPatchBenchError, SuiteError
from qpatchbench.labels import checked_labels, checked_lines, is_label, shown


def test_labels_of_any_script_are_labels() -> None:
    assert all(map(is_label, ["λ = 0.1", "a → b", "β₁", "模型", "4", "x+y", "50 %", "a (b) [c]"]))


@pytest.mark.parametrize("first", "=+-@\t\r|'\"(!_<>#* \u200b\u202e")
def test_a_label_begins_with_a_letter_or_a_digit(first: str) -> None:
    """What a spreadsheet takes for a formula, Markdown for a heading or a list, and a terminal for a command."""
    assert not is_label(f"{first}a")


@pytest.mark.parametrize(
    "letter", [chr(code) for code in (*range(32), 127, 0x85, 0x9B, 0x2028, 0x202E, 0xFEFF, 0xDC80)]
)
def test_no_label_holds_what_a_terminal_obeys(letter: str) -> None:
    assert not is_label(f"a{letter}b")
    assert letter in "\n\t" or letter not in shown(f"a{letter}b")


def test_joined_labels_may_be_long_or_nothing() -> None:
    assert checked_labels("") == ""
    assert checked_labels("+".join(["a" * 60] * 5)).startswith("aaa")
    with pytest.raises(ValueError, match="found '=a'"):
        checked_labels("=a")


def test_lines_are_kept_and_nothing_else() -> None:
    assert checked_lines("a\nb") == "a\nb"
    with pytest.raises(ValueError, match="expected printable text"):
        checked_lines("a\rb")


def test_no_error_carries_an_escape_sequence() -> None:
    assert str(QPatchBenchError("a\x1b[2J")) == "a\\x1b[2J"
    assert SuiteError(["a\x1b[2J", "b\nc"]).problems == ("a\\x1b[2J", "b\nc")


def test_a_foreign_dataset_has_classes_and_ids_that_can_be_shown(tmp_path: Path) -> None:
    splits = Fake(image_size=8).load(tmp_path, tmp_path, Decoding(), 4)
    with pytest.raises(DataError, match="class name '=1': expected printable text"):
        replace(splits, class_names=("=1", *splits.class_names[1:]))
    images = replace(splits.evaluation, ids=("a\x1b", *splits.evaluation.ids[1:]))
    with pytest.raises(DataError, match="expected an id of printable characters on one line") as caught:
        replace(splits, evaluation=images)
    assert "'a\\x1b'" in str(caught.value)
