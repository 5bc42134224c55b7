"""The patches of a run folder, one file each, so that it stands on its own; `qpatchbench apply` reads them too."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialize_tensors

from qpatchbench.runs.files import write_atomically
from qpatchbench.runs.layout import PATCHES, patch_file
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.store.store import Artifact


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
    name = patch_file(job.short_key)
    write_atomically(output / name, data)
    return {**patch_facts(job), "sha256": hashlib.sha256(data).hexdigest()}


def patch_facts(job: CraftJob) -> dict[str, Any]:
    """What the manifest says of a patch, but for the hash of its file."""
    return {
        "patch": job.short_key,
        "key": job.key,
        "label": job.label,
        "attack": job.attack.identity(),
        "seed": job.seed,
        "side": job.side,
        "sources": [source.short_key for source in job.sources],
        "file": patch_file(job.short_key),
        **job.attack.passport,
    }


def remove_other_patches(output: Path, kept: set[str], owned: set[str]) -> None:
    """Delete patch files of an earlier export that are not among `kept`; both are file names within the run folder.

    Args:
        output: the run folder.
        kept: files of this export.
        owned: files that earlier exports say they wrote; no other file is touched.
    """
    for name in sorted(owned - kept):
        if name == f"{PATCHES}/{Path(name).name}":
            (output / name).unlink(missing_ok=True)
