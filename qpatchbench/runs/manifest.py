"""The manifest of a run folder, as it is read wherever a run is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError
from qpatchbench.labels import shown
from qpatchbench.runs.reading import MEGABYTE, read_whole

# Of the fields that other code looks into, which may be missing but not of another kind.
KINDS: Mapping[str, type] = {
    **dict.fromkeys(("suite", "description", "plan", "dataset_note", "device", "mixed"), str),
    **dict.fromkeys(("partial", "complete"), bool),
    **dict.fromkeys(("files", "resolved", "typed", "versions", "git", "ran_on", "dataset_fingerprint", "images"), dict),
    **dict.fromkeys(
        ("seeds", "class_names", "plugins", "checkpoints", "networks", "jobs", "patches", "left_out"), list
    ),
}
OBJECTS = frozenset({"checkpoints", "networks", "jobs", "patches"})  # what these are lists of
WORDS = {str: "a text", bool: "true or false", dict: "a JSON object", list: "a list"}
MOST_BYTES = 30 * MEGABYTE  # a run of 10,000 jobs has a tenth of it


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that exists, whose fields are of the kind that other code takes them for.

    Raises:
        ArtifactError: it holds something else, or is larger than any run writes it.
    """
    manifest = {name: value for name, value in read_object(path).items() if value is not None}
    for name, kind in KINDS.items():
        value: Any = manifest.get(name, kind())
        if not isinstance(value, kind):
            raise ArtifactError(f"{path}: {name}: expected {WORDS[kind]}, found {type(value).__name__}")
    for name in OBJECTS & manifest.keys():
        if not all(isinstance(item, dict) for item in manifest[name]):
            raise ArtifactError(f"{path}: {name}: expected a list of JSON objects, found something else")
    return manifest


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that exists; characters that no terminal should get are written out.

    Raises:
        ArtifactError: it holds something else, or is larger than any run writes it.
    """
    try:
        manifest = json.loads(read_whole(path, MOST_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: expected JSON: {error}") from None
    except RecursionError:
        raise ArtifactError(f"{path}: expected JSON of a few levels, found some nested too deeply") from None
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(manifest).__name__}")
    return {shown(name): _printable(value) for name, value in manifest.items()}


def _printable(value: Any) -> Any:  # noqa: ANN401 (JSON data is anything)
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {shown(name): _printable(inner) for name, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list) else value
