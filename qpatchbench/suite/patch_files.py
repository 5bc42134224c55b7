"""The patches of a run folder, one file each, so that it stands on its own; `qpatchbench apply` reads them too."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize_tensors

from qpatchbench.errors import ArtifactError
from qpatchbench.suite.jobs import CraftJob
from qpatchbench.suite.store import Artifact, write_atomically

FOLDER = "patches"


def write_patch(artifact: Artifact, job: CraftJob, output: Path) -> dict[str, Any]:
    """Write one patch file and return what the manifest says of it.

    The file holds textures and masks (uint8), of some attacks rows, columns and queries, and the mean loss of every
    recorded step, `history` (float64). Its only metadata are its goals: the order of several would not be fixed.

    Raises:
        StorageError: the folder cannot be written.
    """
    history = np.array(artifact.facts["history"], np.float64)
    arrays = {name: np.asarray(array, order="C") for name, array in artifact.arrays.items()}
    data = serialize_tensors({**arrays, "history": history}, metadata={"goals": str(artifact.facts["goals"])})
    name = f"{FOLDER}/{job.key[:16]}.safetensors"
    write_atomically(output / name, data)
    return {
        "patch": job.key[:16],
        "key": job.key,
        "label": job.label,
        "attack": job.attack.identity(),
        "seed": job.seed,
        "side": job.side,
        "sources": [source.key[:16] for source in job.sources],
        "file": name,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def read_patch(path: Path) -> Artifact:
    """A patch file as the artifact it was written from.

    Raises:
        ArtifactError: it is missing, or no patch.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            goals = (file.metadata() or {})["goals"]
        history = arrays.pop("history").tolist()
    except (OSError, SafetensorError, KeyError) as error:
        raise ArtifactError(f"{path}: expected a patch, found {type(error).__name__}: {error}") from None
    return Artifact(arrays, {"goals": goals, "history": history, "stages": []})


def remove_other_patches(output: Path, kept: set[str]) -> None:
    """Delete patch files of an earlier export that are not among `kept`, file names within the run folder."""
    for path in (output / FOLDER).glob("*.safetensors"):
        if f"{FOLDER}/{path.name}" not in kept:
            path.unlink()
