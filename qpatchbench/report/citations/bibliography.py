"""The bibliography of the built-in components, and the way from a catalogue's reference to its entries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")
_AUTHOR_YEAR = re.compile(r"([A-Z][\w-]+)[^;]*?\b((?:19|20)\d\d)\b")


class BibliographyEntry(NamedTuple):
    """One entry of references.bib: its key, fields and text."""

    key: str
    fields: Mapping[str, str]
    text: str

    @property
    def first_author(self) -> str:
        """Family name of the first author."""
        return self.fields["author"].partition(",")[0]


@cache
def bibliography() -> Mapping[str, BibliographyEntry]:
    """All entries, by key."""
    text = files("qpatchbench.report.citations").joinpath("references.bib").read_text(encoding="utf-8")
    found = (BibliographyEntry(match[2], dict(_FIELD.findall(match[3])), match[0]) for match in _ENTRY.finditer(text))
    return {entry.key: entry for entry in found}


def entries_of(reference: str) -> Iterator[BibliographyEntry]:
    """Entries that a reference such as `Karmon, Zoran, Goldberg 2018, LaVAN, arXiv 1801.02608` names.

    Each part between semicolons names one, by its arXiv number, or by its first author and year; a part without either
    names none.
    """
    for part in reference.split(";"):
        number, named = _ARXIV.search(part), _AUTHOR_YEAR.search(part)
        for entry in bibliography().values():
            written = (entry.first_author, entry.fields["year"])
            by_name = number is None and named is not None and written == named.groups()
            if by_name or (number is not None and entry.fields.get("eprint") == number[1]):
                yield entry
