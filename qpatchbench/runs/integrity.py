"""Integrity of a run folder, or of an entry: its files are those that were written, by their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from qpatchbench.errors import ArtifactError
from qpatchbench.labels import shown
from qpatchbench.runs.files import sha256_of
from qpatchbench.runs.layout import BIBTEX, MANIFEST, PATCHES, PICTURES, SUMS
from qpatchbench.runs.reading import MEGABYTE, MOST_BYTES_OF_ARRAYS, expect_modest, read_whole
from qpatchbench.runs.records import CellRecord

MOST_BYTES_OF_SUMS = 10 * MEGABYTE
PATCH_ARRAYS = frozenset({"textures", "masks", "rows", "columns", "queries", "attacked", "history"})


class Unchecked(str):
    """A sentence about what was taken at its word; any other sentence about a run says that something is wrong."""

    __slots__ = ()


def file_findings(directory: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Files that are missing, or not those whose hash the manifest names; of an entry, SHA256SUMS too."""
    if "files" not in manifest or "patches" not in manifest:
        yield (
            "manifest.json: expected the hashes of files and patches, found none: an earlier version wrote this "
            "folder; run the suite again, which computes nothing twice"
        )
    named = {str(name): str(digest) for name, digest in manifest.get("files", {}).items()}
    patches = manifest.get("patches", ())  # an entry that lacks a field is a file that is not there
    named |= {str(entry.get("file")): str(entry.get("sha256")) for entry in patches}
    for name in sorted(name for name in left_out(manifest) if name not in named or not name.startswith(PICTURES)):
        yield f"manifest.json, left_out: expected patches and maps that it names, found {name}"
    left = {name for name in left_out(manifest) if not (directory / name).exists()}
    if left:
        yield Unchecked(f"{len(left)} of {len(named)} files, which were left out; manifest.json has their hashes")
    yield from _compared(directory, {name: each for name, each in named.items() if name not in left}, MANIFEST)
    there = {f"{PATCHES}/{path.name}" for path in (directory / PATCHES).glob("*")}
    for name in sorted(there - set(named)):
        yield f"{name}: expected no such file, since manifest.json does not name it, found one"
    if (directory / SUMS).is_file():
        yield from entry_findings(manifest)
        lines = [line for line in _sums(directory / SUMS).splitlines() if line.strip()]
        yield from (
            f"{SUMS}: expected lines of a hash, two blanks and a file name, found {line!r}"
            for line in lines
            if "  " not in line
        )
        sums = {name: digest for digest, sign, name in (line.partition("  ") for line in lines) if sign}
        yield from _compared(directory, {name: each for name, each in sums.items() if named.get(name) != each}, SUMS)
        files = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
        for name in sorted({*files, MANIFEST, BIBTEX} - {*sums, SUMS}):
            yield f"{SUMS}: expected a line for every file of the entry, found none for {name}"


def left_out(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Files of the run that its entry does not have, as the entry says."""
    return tuple(str(name) for name in manifest.get("left_out", ()))


def _sums(path: Path) -> str:
    try:
        return read_whole(path, MOST_BYTES_OF_SUMS).decode(errors="replace")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None


def entry_findings(manifest: Mapping[str, Any], cells: Sequence[CellRecord] = ()) -> Iterator[str]:
    """What keeps a run from being an entry: it is not whole, or nobody can tell by which code it was made."""
    limit = manifest.get("resolved", {}).get("limit")
    if manifest.get("partial") or limit is not None or any(cell.partial for cell in cells):
        yield "manifest.json: expected a whole run, found a partial one: its images were cut by --limit"
    failed = [str(job.get("label")) for job in manifest.get("jobs", ()) if "error" in job]
    failed += [f"cell {cell.cell}" for cell in cells if cell.status != "ok"]
    if failed or manifest.get("complete") is not True:
        yield f"manifest.json: expected a complete run, found {len(failed)} failed jobs: {'; '.join(failed[:3])}"
    git = manifest.get("git", {})
    if not git.get("revision"):
        yield "manifest.json: expected the revision of a checkout, found none: an entry is made by committed code"
    elif git.get("dirty") is not False:
        yield (
            f"manifest.json: expected committed code, found uncommitted changes to revision "
            f"{str(git['revision'])[:12]}; "
            "commit them and run the suite again with another --output, which computes nothing twice"
        )
    dirty = [str(job.get("label")) for job in manifest.get("jobs", ()) if job.get("dirty")]
    if dirty:
        yield (
            f"manifest.json: expected results of committed code, found {len(dirty)} jobs that were computed with "
            f"uncommitted changes, the first: {dirty[0]}; run the suite with --fresh"
        )


def _compared(directory: Path, named: Mapping[str, str], by: str) -> Iterator[str]:
    for name, digest in sorted(named.items()):
        path = directory / name
        if not is_inside(directory, name):
            yield f"{by}: expected files of this folder, found {name}"
        elif not path.is_file():
            yield f"{name}: expected a file, since {by} names it, found none"
        elif (found := sha256_of(path)) != digest:
            yield f"{name}: expected SHA-256 {digest[:16]}..., named by {by}, found {found[:16]}..."


def patch_findings(directory: Path, manifest: Mapping[str, Any], cells: Sequence[CellRecord]) -> Iterator[str]:
    """Patches that cells need and the folder lacks, and patches that are not of the size their cells state."""
    files = {str(entry.get("patch")): str(entry.get("file")) for entry in manifest.get("patches", ())}
    first = {cell.patch: cell for cell in reversed(cells) if cell.status == "ok"}
    for key, cell in sorted(first.items()):
        if key not in files:
            yield f"manifest.json: expected the patch {key} of cell {cell.cell}, found none"
        elif is_inside(directory, files[key]) and (directory / files[key]).is_file():
            try:
                yield from _shape(directory / files[key], cell)
            except (SafetensorError, KeyError) as error:
                yield f"{files[key]}: expected a patch, found {type(error).__name__}: {error}"


def is_inside(directory: Path, name: str) -> bool:
    """Whether a file that a manifest names lies in its run folder, links followed."""
    return (directory / name).resolve().parent in (directory.resolve(), (directory / PATCHES).resolve())


def _shape(path: Path, cell: CellRecord) -> Iterator[str]:
    expect_modest(path, MOST_BYTES_OF_ARRAYS)
    with safe_open(path, framework="numpy") as file:
        textures, masks = (file.get_tensor(name) for name in ("textures", "masks"))
        names, metadata = set(file.keys()), file.metadata() or {}
    for name in sorted(names - PATCH_ARRAYS):
        yield f"patches/{path.name}: expected no array {shown(name)}, found one"
    goals = json.dumps([count.goal for count in cell.counts])
    if metadata != {"goals": goals}:
        yield f"patches/{path.name}: expected the goals {goals} and nothing else, found {shown(str(metadata))[:80]}"
    count = len(cell.counts) * (cell.n_images if cell.patch_kind == "per_image" else 1)
    wanted = (count, 3, cell.patch_height, cell.patch_width)
    whole = (count, 3, cell.image_height, cell.image_width)  # a pixel attack perturbs the whole image
    if textures.dtype != np.uint8 or textures.shape not in (wanted, whole):
        yield (
            f"patches/{path.name}: expected textures uint8 {wanted}, as cell {cell.cell} states, found "
            f"{textures.dtype} {textures.shape}"
        )
    elif masks.shape != (count, 1, *textures.shape[2:]) or not np.isin(masks, (0, 1)).all():
        yield f"patches/{path.name}: expected a mask of zeros and ones for every texture, found {masks.shape}"
    elif not masks.reshape(count, -1).any(axis=1).all():
        empty = int((~masks.reshape(count, -1).any(axis=1)).sum())
        yield f"patches/{path.name}: expected masks that show something, found {empty} of {count} that show nothing"
