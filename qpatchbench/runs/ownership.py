"""Ownership of a run folder: which suite it belongs to, which files a run may replace there, and who writes now."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError, OutputError
from qpatchbench.runs.files import storage_errors, write_atomically
from qpatchbench.runs.layout import CLAIM, MANIFEST, REPORT_FACTS
from qpatchbench.runs.manifest import read_object


def refuse_foreign(output: Path, suite: str, partial: bool) -> None:
    """Check that a run of `suite` may write into a folder without `--overwrite`.

    Args:
        output: the run folder, which need not exist.
        suite: name of the suite.
        partial: whether the run has fewer images than its suite, by `--limit`.

    Raises:
        OutputError: it holds files of somebody else, results of another suite, or whole results and this run is not.
    """
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: expected a folder for the results, found a file; choose another --output")
    if not output.is_dir():
        return
    # A run that was killed while it claimed the folder left the temporary file of its claim.
    there = sorted(path.name for path in output.iterdir() if not path.name.startswith(f".{CLAIM}."))
    if not there:
        return
    manifest = _facts(output / MANIFEST)
    owner = manifest.get("suite") or _facts(output / CLAIM).get("suite")
    advice = "choose another --output, or add --overwrite"
    if owner is None:
        raise OutputError(
            f"{output}: expected an empty folder or one of suite {suite!r}, found {len(there)} files and folders that "
            f"no run wrote, the first: {there[0]}; {advice}"
        )
    if owner != suite:
        raise OutputError(f"{output}: expected a folder of suite {suite!r}, found results of {owner!r}; {advice}")
    if partial and manifest.get("partial") is False:
        raise OutputError(
            f"{output}: expected a folder of its own for a partial run (--limit), found the whole run of {suite!r}; "
            f"{advice}"
        )


def claim(output: Path, suite: str, files: Iterable[str] = ()) -> None:
    """Mark a folder as this suite's, and `files` as those that a run is about to write.

    Raises:
        StorageError: the folder cannot be written.
    """
    known = {*owned_files(output, suite), *files}
    write_atomically(output / CLAIM, json.dumps({"suite": suite, "files": sorted(known)}).encode())


def owned_files(output: Path, suite: str) -> set[str]:
    """Files within a folder that earlier runs of the same suite say they wrote; all others are not ours to delete."""
    named: set[str] = set()
    for facts in (_facts(output / CLAIM), manifest := _facts(output / MANIFEST)):
        if facts.get("suite") == suite:
            named |= _names(facts)
            patches = facts.get("patches")
            entries = patches if isinstance(patches, list) else []
            named |= {str(entry["file"]) for entry in entries if isinstance(entry, dict) and "file" in entry}
    if manifest.get("suite") == suite:
        named |= _names(_facts(output / REPORT_FACTS))
    return named


def _names(facts: Mapping[str, Any]) -> set[str]:
    files = facts.get("files")
    return {str(name) for name in files} if isinstance(files, list | dict) else set()


@contextmanager
def writing_alone(output: Path) -> Iterator[None]:
    """Keep other runs out of a folder until this one ends, however it ends.

    Raises:
        OutputError: another run is writing there.
        StorageError: the folder cannot be written.
    """
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDONLY)  # the folder itself, so that no file of a lock is left in it
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{output}: expected to write here alone, found another run at work; wait until it ends, or choose "
                "another --output"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _facts(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except ArtifactError:
        return {}
