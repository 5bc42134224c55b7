"""A leaderboard entry: a folder that stands on its own, made from a finished run, for others to verify and to cite.

It holds manifest.json, cells.parquet, outcomes.parquet (one row per image and cell), patches/, leaderboard.csv,
entry.bib and SHA256SUMS; analyses where the run had them. No weights and no images.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qpatchbench.errors import ArtifactError, QPatchBenchError
from qpatchbench.report.entries.recount import manifest_of, number_findings
from qpatchbench.report.leaderboard.published import listing
from qpatchbench.report.leaderboard.row import Row
from qpatchbench.report.page.escaping import tex_escaped
from qpatchbench.runs.files import sha256_of, write_atomically
from qpatchbench.runs.integrity import entry_findings
from qpatchbench.runs.layout import BIBTEX, CELLS, LEADERBOARD, MANIFEST, PICTURES, SUMS
from qpatchbench.runs.records import CellRecord
from qpatchbench.runs.run import read_cells


class Citation(NamedTuple):
    """Who made an entry, and what it is called."""

    authors: tuple[str, ...]
    title: str
    url: str
    year: int


def write_entry(run_dir: Path, output: Path, citation: Citation, *, without_pictures: bool = False) -> tuple[Path, ...]:
    """Write an entry; SHA256SUMS comes last.

    Args:
        run_dir: of a finished run.
        output: new or empty folder.
        citation: of the entry.
        without_pictures: leave out patches and maps, which may be large, and say so in the manifest: every number can
            be counted again, and no prediction made again.

    Raises:
        ArtifactError: no run folder.
        QPatchBenchError: a run that is no entry (partial, failed jobs, uncommitted code, numbers that do not hold), or
            a folder that holds something else; nothing was written.
        StorageError: the folder cannot be written.
    """
    manifest = manifest_of(run_dir)
    problems = [*entry_findings(manifest, _cells(run_dir)), *number_findings(run_dir, reports=False)]
    if output.is_dir() and any(output.iterdir()):
        problems.append(f"{output}: expected a new or empty folder, found {listing(output)}")
    elif output.exists() and not output.is_dir():
        problems.append(f"{output}: expected a new or empty folder, found a file")
    if problems:
        raise QPatchBenchError(f"{run_dir} is no entry:\n" + "\n".join(f"  - {problem}" for problem in problems))
    names = [*manifest["files"], *(entry["file"] for entry in manifest["patches"])]
    left = sorted(name for name in names if without_pictures and name.startswith(PICTURES))
    kept = [LEADERBOARD, *(name for name in names if name not in left)]
    written = [write_atomically(output / name, (run_dir / name).read_bytes()) for name in kept]
    told = (json.dumps({**manifest, "left_out": left}, indent=1) + "\n").encode()
    written.append(write_atomically(output / MANIFEST, told if left else (run_dir / MANIFEST).read_bytes()))
    written.append(write_atomically(output / BIBTEX, bibtex(output.resolve().name, manifest, citation).encode()))
    lines = sorted(f"{sha256_of(path)}  {path.relative_to(output).as_posix()}" for path in written)
    return (*written, write_atomically(output / SUMS, ("\n".join(lines) + "\n").encode()))


def _cells(run_dir: Path) -> tuple[CellRecord, ...]:
    """Records of a run; none where they cannot be read, which is told with the numbers."""
    try:
        return read_cells(run_dir / CELLS)
    except ArtifactError:
        return ()


def bibtex(name: str, manifest: Mapping[str, Any], citation: Citation) -> str:
    """One @misc entry."""
    suite, version = manifest.get("suite", ""), manifest.get("versions", {}).get("qpatchbench", "")
    fields = {
        "author": " and ".join(map(tex_escaped, citation.authors)),
        "title": f"{{{tex_escaped(citation.title)}}}",
        "year": str(citation.year),
        "url": citation.url,
        "note": tex_escaped(f"qpatchbench {version}, suite {suite}, plan {manifest.get('plan', '')}"),
    }
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@misc{{{_citation_key(name)},", *lines, "}"]) + "\n"


def failed_checks(rows: Sequence[Row]) -> dict[str, int]:
    """Check -> number of rows in which it failed."""
    failed = Counter(name for row in rows for name in row.failed_checks.split()[1:])
    return {name: failed[name] for name in sorted(failed, key=lambda name: int(name[1:]))}


def _citation_key(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "entry"
