"""Citations: every built-in component that states a paper has its BibTeX, and a run gets those that it used."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from qpatchbench.registry import REGISTRIES
from qpatchbench.report.citations.bibliography import bibliography, entries_of
from qpatchbench.report.citations.used import UsedComponent, cite, used_components
from qpatchbench.report.leaderboard.published import read_folder
from tests.cli.test_commands import ROOT, invoke
from tests.report.made_up_runs import row, write_run

REFERENCES = sorted(
    {
        entry.reference
        for registry in REGISTRIES.values()
        for entry in import_module(registry.package).CATALOGUE.values()
    }
    - {""}
)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda text: text[:30])
def test_every_reference_of_a_catalogue_has_its_entries(reference: str) -> None:
    found = list(entries_of(reference))
    stated = [part for part in reference.split(";") if re.search(r"\b(19|20)\d\d\b", part)]
    assert len(found) == len(stated)
    for part, entry in zip(stated, found, strict=True):
        assert entry.first_author in part
        assert entry.fields["year"] in part


def test_the_bibliography_is_whole() -> None:
    whole = (ROOT / "qpatchbench/report/citations/references.bib").read_text(encoding="utf-8")
    assert whole.count("\n@") + 1 == len(bibliography()) >= 35
    for entry in bibliography().values():
        assert {"author", "title", "year"} <= set(entry.fields)
        assert "others" not in entry.fields["author"], f"{entry.key}: every author has a name"
        assert entry.text.count("{") == entry.text.count("}")
    numbers = [entry.fields["eprint"] for entry in bibliography().values() if "eprint" in entry.fields]
    assert len(set(numbers)) == len(numbers)


def test_the_two_papers_are_cited_as_in_the_citation_file() -> None:
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    for reference in references:
        number = reference["identifiers"][0]["value"].removeprefix("arXiv:")
        entry = next(each for each in bibliography().values() if each.fields.get("eprint") == number)
        authors = [f"{each['family-names']}, {each['given-names']}" for each in reference["authors"]]
        assert entry.fields["author"] == " and ".join(authors)
        assert re.sub(r"[{}]", "", entry.fields["title"]) == reference["title"]


def test_a_run_cites_what_it_used_once() -> None:
    done = invoke("cite", str(ROOT / "results/cifar_defenses_small"), str(ROOT / "results/cifar_transfer_small"))
    assert done.exit_code == 0
    keys = re.findall(r"^@\w+\{(.+),$", done.stdout, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert {"qpatchbench", "karmon2018lavan", "guesmi2026triqdef", "wu2020integer", "he2016deep"} <= set(keys)
    assert {"yang2020patchattack", "liu2021swin"}.isdisjoint(keys)
    assert "% attack lavan\n@inproceedings{karmon2018lavan," in done.stdout
    assert "% defense pbat\n" in done.stdout


def test_a_published_board_alone_says_what_it_used(tmp_path: Path) -> None:
    rows = [row(target_bits="8", quantization="ptq-minmax", attack="random", source_model=""), row(target_bits="4")]
    folder = read_folder(write_run(tmp_path / "run", rows, resolved={}))
    assert UsedComponent("quantizers", "ptq") in used_components(folder)
    found = cite([folder])
    assert "brown2017patch" in found.bibtex
    assert UsedComponent("attacks", "random") in found.without


def test_a_timm_model_cites_its_library(tmp_path: Path) -> None:
    folder = read_folder(
        write_run(tmp_path / "run", [row()], resolved={"models": ["timm/convnext_tiny"], "dataset": {"name": "fake"}})
    )
    found = cite([folder])
    assert "% model timm/convnext_tiny\n@misc{wightman2019timm," in found.bibtex
    assert found.without == (UsedComponent("datasets", "fake"),)
