"""Every report file written again from recounted cells, and held against the file that is there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import version

from qpatchbench.labels import shown
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.report.page.build import contents
from qpatchbench.runs.files import sha256_of
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import (
    ANALYSIS_FILES,
    BIBTEX,
    CELLS,
    CLAIM,
    EXAMPLES,
    LEADERBOARD,
    MANIFEST,
    OUTCOMES,
    PATCHES,
    PLOTS,
    REPORT_FACTS,
    REPORT_PAGE,
    SUMS,
)
from qpatchbench.runs.manifest import read_object
from qpatchbench.runs.reading import MEGABYTE, read_whole
from qpatchbench.runs.run import Run

RECORDS = frozenset({MANIFEST, CELLS, OUTCOMES, EXAMPLES, *ANALYSIS_FILES, SUMS, BIBTEX, CLAIM, REPORT_FACTS})
DRAWN_BY, DRAWN = ("matplotlib", "pillow"), (".png", ".html")  # the page holds the pictures
WORDED = (*DRAWN, ".md", ".tex")  # how they say what they say is the code's choice; a .csv holds numbers
SHOWN = 120  # characters of a line that a sentence shows


def rewritten(
    run: Run, board: Leaderboard, formats: Sequence[str], told: Collection[str] = (), *, same_code: bool = True
) -> Iterator[str]:
    """Report files that are not what the records give, and files that no run writes.

    Pictures and the page are drawn again only where the folder has some: published folders and entries have none.

    Args:
        run: with cells counted anew.
        board: of them.
        formats: of the tables that are written again; none: nothing is.
        told: files of which it is known that they differ.
        same_code: whether the revision that wrote them is at work here; pages of another one are claims.
    """
    directory = run.directory
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    if BIBTEX in files:
        yield Unchecked(f"{BIBTEX}, which names its authors")
    drawn = REPORT_PAGE in files or any(name.startswith(f"{PLOTS}/") for name in files)
    wanted = [form for form in formats if form != "html" or drawn]
    if not wanted:
        return
    same = all(run.manifest.get("versions", {}).get(name) == version(name) for name in DRAWN_BY)
    known = {LEADERBOARD: b"", **dict(contents(run, board, wanted))}
    for name, expected in known.items():
        if name not in files or name in told or not expected:
            continue
        try:
            found = read_whole(directory / name, 2 * len(expected) + MEGABYTE)
        except OSError as error:
            yield f"{name}: {error.strerror or error}"
            continue
        if found != expected:
            if not same_code and name.endswith(WORDED):
                yield Unchecked(f"{name}, which another revision wrote")
            elif not same and name.endswith(DRAWN):
                yield Unchecked(f"{name}, which another matplotlib or Pillow drew")
            else:
                yield _difference(name, expected, found)
    for name in sorted(files - RECORDS - set(known)):
        if name.startswith(f"{PLOTS}/") and not same_code:
            yield Unchecked(f"{name}, which another revision drew")
        elif name.startswith(f"{PLOTS}/"):
            yield f"{name}: expected no such picture, since the records give none, found one"
        elif not name.startswith(f"{PATCHES}/"):
            yield Unchecked(f"{shown(name)}, which no run writes")
    yield from _own_facts(run, files, set(known), same_code=same_code)


def _difference(name: str, expected: bytes, found: bytes) -> str:
    """The first line of a file that is not the one that the records give."""
    if name.endswith(".png"):
        return f"{name}: expected the picture that the records give, found another one"
    ours, theirs = (data.decode(errors="replace").split("\n") for data in (expected, found))
    both = zip(ours, theirs, strict=False)
    number = next((number for number, (one, other) in enumerate(both) if one != other), min(len(ours), len(theirs)))
    lines = [shown(text[number])[:SHOWN] if number < len(text) else "no such line" for text in (ours, theirs)]
    return f"{name}, line {number + 1}: expected {lines[0]!r}, as the records give it, found {lines[1]!r}"


def _own_facts(run: Run, files: set[str], reports: set[str], *, same_code: bool) -> Iterator[str]:
    """What the run notes for itself: which files are its own, and their hashes."""
    directory, manifest = run.directory, run.manifest
    patches = {str(entry.get("file")) for entry in manifest.get("patches", ())}
    if REPORT_FACTS in files:
        facts = read_object(directory / REPORT_FACTS)
        hashes = facts["files"] if isinstance(facts.get("files"), dict) else {}
        if facts.get("plan") != manifest.get("plan"):
            yield f"{REPORT_FACTS}: expected the plan of manifest.json, found another"
        ours = {MANIFEST, EXAMPLES, *manifest.get("files", {}), *patches, *reports}
        if not same_code:  # which pictures there are is the code's choice too
            ours = {name for name in ours | hashes.keys() if name in hashes or not name.endswith(WORDED)}
        for name in sorted(hashes.keys() ^ ours):
            yield f"{REPORT_FACTS}: expected {'the hash of' if name in ours else 'no hash of'} {name}, found otherwise"
        for name in sorted(hashes.keys() & ours & files):
            if (directory / name).is_file() and hashes[name] != sha256_of(directory / name):
                yield f"{REPORT_FACTS}: expected the hash of {name}, found another"
        for name in sorted(hashes.keys() & ours - files):
            yield f"{name}: expected a file, since {REPORT_FACTS} names it, found none"
    if CLAIM in files:
        facts = read_object(directory / CLAIM)
        claimed = facts["files"] if isinstance(facts.get("files"), list) else []
        if facts.get("suite") != manifest.get("suite") or not patches <= {str(name) for name in claimed}:
            yield f"{CLAIM}: expected the suite and the patches of manifest.json, found others"
