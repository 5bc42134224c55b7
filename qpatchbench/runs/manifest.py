"""The manifest of a run folder, as it is read wherever a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qpatchbench.errors import ArtifactError


def read_manifest(path: Path) -> dict[str, Any]:
    """The JSON object in a file that exists.

    Raises:
        ArtifactError: it holds something else.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: expected JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(manifest).__name__}")
    return manifest
