"""One word for each thing, as CONTRIBUTING has them, held where a machine can tell."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import qpatchbench

PACKAGE = Path(qpatchbench.__file__).parent

# Widths that are of pixels or columns of text, each with what it measures.
WIDTHS_OF_SOMETHING_ELSE = {
    "types/patches:Patch.width": "columns of a patch, pixels",
    "runs/records:CellRecord.patch_width": "columns of a patch, pixels",
    "report/leaderboard/row:Row.patch_width": "columns of a patch, pixels",
    "runs/records:CellRecord.image_width": "columns of an image, pixels",
    "ops/patches/locating:Box.width": "columns of a box, pixels",
    "models/cifar:CifarModel.width": "channels of a network, relative to its paper's",
    "cli/print_leaderboard:PIPED_WIDTH": "columns of text",
    "papers/tables/verdicts:WIDEST_POINTS": "length of an interval, points",
    "papers/tables/verdicts:WIDEST_SHARE": "length of an interval, relative",
}
PICTURES = "report/figures/"  # widths of drawings, inches and pixels

# File stems that stand more than once, each time for the same thing.
SAME_THING = {
    "base": "the contract of each kind of component, and of a job",
    **dict.fromkeys(
        ("evaluate", "audit", "cost", "similarity", "maps"), "one stem per job: its job, its work, its measure"
    ),
    **dict.fromkeys(("plan", "run"), "a command and what it shows"),
    **dict.fromkeys(("qat", "none", "cifar"), "a name in two registries, or an architecture for a dataset"),
    "pixel_attacks": "their arithmetic, and the figure of what they do",
    "source": "where images come from and where a suite's lines come from; modules of data/ keep their paths",
}


class Named(NamedTuple):
    """A public name and where it is: `ops/patches/locating:Box.width`."""

    where: str
    name: str


@cache
def modules() -> dict[str, ast.Module]:
    """Path without suffix -> tree."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Afterwards: a million nodes, through which every search for garbage in later tests would go."""
    yield
    modules.cache_clear()


def public_names(module: str, body: list[ast.stmt], within: str = "") -> Iterator[Named]:
    """Functions, classes, constants and fields, and the parameters of what is called."""
    for node in body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        for name in names:
            if name.startswith("_"):
                continue
            yield Named(f"{module}:{within}{name}", name)
            if isinstance(node, ast.ClassDef):
                yield from public_names(module, node.body, f"{name}.")
            if isinstance(node, ast.FunctionDef):
                parameters = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                yield from (Named(f"{module}:{within}{name}.{each.arg}", each.arg) for each in parameters)


@cache
def names() -> tuple[Named, ...]:
    """All of the package, the stems of its modules among them."""
    found = [Named(f"{module}:", module.rpartition("/")[2]) for module in modules()]
    for module, tree in modules().items():
        found += public_names(module, tree.body)
    return tuple(found)


def says(name: str, *words: str) -> bool:
    return not set(re.split(r"_|(?<=[a-z])(?=[A-Z])", name.lower() if "_" in name else name)).isdisjoint(words)


def test_bits_are_called_bits() -> None:
    widths = {
        each.where
        for each in names()
        if says(each.name, "width", "widths", "Width", "Widths", "wider", "widest", "narrower", "narrowest")
        or says(each.name, "bitwidth", "bitwidths", "nbits", "precisions")
    }
    widths = {where for where in widths if not where.startswith(PICTURES)}
    assert set(WIDTHS_OF_SOMETHING_ELSE) <= widths, "the list of other widths has something that is gone"
    assert sorted(widths - set(WIDTHS_OF_SOMETHING_ELSE)) == []


def test_steps_are_called_steps() -> None:
    other = {"iters", "iterations", "num_steps", "n_steps", "num_iter", "n_iter", "max_iter", "nb_iter", "step_count"}
    assert [each.where for each in names() if each.name in other] == []


def test_hyper_parameters_have_one_spelling() -> None:
    other = {"stepsize", "lr_step", "batchsize", "bs", "batch", "random_seed", "rng_seed", "patch_size_px", "eps"}
    fields = {each.where for each in names() if each.name in other and each.where.count(".") == 1}
    assert {where for where in fields if where.partition("/")[0] in ("attacks", "defenses", "quantizers")} == set()


def test_a_file_stem_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for module in modules():
        folder, _, stem = module.rpartition("/")
        if not stem.startswith("__"):
            places[stem].append(folder)
    repeated = {stem for stem, folders in places.items() if len(folders) > 1}
    assert sorted(repeated - set(SAME_THING)) == []
    assert set(SAME_THING) <= repeated, "the list of stems has one that stands once"


def test_a_class_name_stands_for_one_thing() -> None:
    places = defaultdict(list)
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_a_first_line_says_what_a_module_is() -> None:
    found = {module: complaint(ast.get_docstring(tree) or "") for module, tree in modules().items()}
    assert {module: wrong for module, wrong in found.items() if wrong} == {}


def complaint(docstring: str) -> str:
    """What is wrong with the first line, or nothing.

    It is one sentence that ends with a period, and no paraphrase of a question.
    """
    line = docstring.partition("\n")[0]
    if not line.endswith("."):
        return "no period at its end"
    if re.match(r"(What|How|Whether|Where|Which|Who|Why) ", line):
        return "a question: say the thing itself"
    if re.search(r"[a-z)`][.?!] [A-Z]", line.replace("et al. ", "")):
        return "two sentences: the second goes below"
    return ""


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("Mean prediction of an ensemble.", ""),
        ("What several networks answer together.", "a question: say the thing itself"),
        ("Intervals and tests for rates", "no period at its end"),
        ("Records. Imports no torch.", "two sentences: the second goes below"),
        ("V5: Zhang et al. 2018, Theirs.", ""),
    ],
)
def test_complaints(line: str, ends: str) -> None:
    assert complaint(line) == ends


def test_the_words_of_contributing_are_those_of_the_jobs() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    works = {module.rpartition("/")[2] for module in modules() if module.startswith("suite/work/")}
    stems = works - {"__init__", "workbench", "worker"}
    assert stems == {"train", "deploy", "craft", "evaluate", "audit", "cost", "similarity", "maps"}
    assert all(f"`{stem}`" in text for stem in stems)
