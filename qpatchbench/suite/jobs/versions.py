"""Versions of jobs, bumped when the runner itself, rather than a component, changes numbers."""

JOB_VERSIONS = {
    "train": 1,
    "deploy": 1,
    "preprocess": 1,
    "craft": 2,
    "evaluate": 2,
    "cost": 2,
    "similarity": 1,
    "maps": 1,
}
