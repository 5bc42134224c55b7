"""Catalogue lines of classes that are not imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qpatchbench.errors import PluginError
from qpatchbench.unimported import Line, line_of
from tests.distributions import SOFT, write

BOMB = "raise RuntimeError('imported')\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the Python path; every module in it raises when it is imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


FOUND = Line("Training on labels that are never sure", "Szegedy et al. 2016, arXiv 1512.00567")


def test_summary_and_reference_are_read_from_the_class(folder: Path) -> None:
    write(folder, {"unread_soft.py": SOFT + BOMB})
    assert line_of("unread_soft:Soft") == FOUND
    assert "unread_soft" not in sys.modules


@pytest.mark.parametrize(
    ("package", "target"),
    [
        ("from unread.inner.soft import Soft\n", "unread:Soft"),
        ("from .inner.soft import Soft\n", "unread:Soft"),
        ("from .inner.soft import Soft as Renamed\n", "unread:Renamed"),
        ("from .inner import Soft\n", "unread:Soft"),
        ("", "unread.inner:Soft"),
    ],
)
def test_a_class_that_a_package_passes_on_is_followed(package: str, target: str, folder: Path) -> None:
    write(
        folder,
        {
            "unread/__init__.py": package + BOMB,
            "unread/inner/__init__.py": "from .soft import Soft\n" + BOMB,
            "unread/inner/soft.py": SOFT + BOMB,
        },
    )
    assert line_of(target) == FOUND
    assert not [name for name in sys.modules if name.startswith("unread.")]


@pytest.mark.parametrize(
    "source",
    [
        "class Thing:\n    x = 1\n",
        "Thing = make()\n",
        "def Thing(): ...\n",
        "from elsewhere import *\n",
        "from unread_circle import Thing\n",
        "def __getattr__(name): ...\n",
        "if True:\n    class Thing: ...\n",
    ],
)
def test_what_cannot_be_read_says_nothing(source: str, folder: Path) -> None:
    write(folder, {"unread_circle.py": source})
    assert line_of("unread_circle:Thing") == Line()


def test_a_module_without_source_says_nothing() -> None:
    assert line_of("math:Thing") == Line()


def test_references_are_plain_text_only(folder: Path) -> None:
    source = "class A:\n    'A'\n    reference = 'Lee 2024'\n\nclass B:\n    'B'\n    reference = f'{A.reference}'\n"
    write(folder, {"unread_references.py": source})
    assert line_of("unread_references:A") == Line("A", "Lee 2024")
    assert line_of("unread_references:B") == Line("B", "")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere_at_all:Thing", "there is no module 'nowhere_at_all' on the Python path"),
        ("email.nowhere:Thing", "there is no module 'email.nowhere' on the Python path"),
        ("email.nowhere.deeper:Thing", "there is no module 'email.nowhere' on the Python path"),
        ("unread_wrong:Thing", "{0}/unread_wrong.py:2: SyntaxError: invalid syntax"),
        ("unread_other:Thing", "expected a class Thing in {0}/unread_other.py, found none"),
        ("unread_other", "expected module:Class as its target, found 'unread_other'"),
    ],
)
def test_what_is_certainly_broken_says_where(target: str, message: str, folder: Path) -> None:
    write(folder, {"unread_wrong.py": "x = 1\nx x\n", "unread_other.py": "class Other: ...\n"})
    with pytest.raises(PluginError) as caught:
        line_of(target)
    assert str(caught.value) == message.format(folder)
