"""Versions of jobs, bumped when the runner itself, rather than a component, changes numbers."""

import importlib.metadata

WRITER = 2  # of models for a runtime: bumped when they are written otherwise
JOB_VERSIONS = {
    "train": 1,
    "deploy": 1,
    "preprocess": 1,
    "craft": 2,
    "evaluate": 2,
    "cost": 3,
    "similarity": 1,
    "maps": 1,
}


def deployment_release(runtime: str) -> list[object]:
    """What a second evaluation depends on beside the network: the runtime, its version, and how models are written."""
    try:
        return [runtime, importlib.metadata.version(runtime), WRITER]
    except importlib.metadata.PackageNotFoundError:
        return [runtime, None, WRITER]
