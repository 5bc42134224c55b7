"""Removal of artifacts that no later run may find, since nothing identifies what made them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.plugin_facts import unidentified
from qpatchbench.suite.store.store import Store


@contextmanager
def passing(plan: Plan, store: Store) -> Iterator[None]:
    """Remove, before and after the block, the artifacts of every job that an unidentified component takes part in.

    Raises:
        StorageError: the disk refuses.
    """
    jobs = [job for job in plan.jobs if unidentified(job)] if unidentified(plan.suite) else []

    def remove() -> None:
        for job in jobs:
            store.remove(job.kind, job.key)
            if isinstance(job, DeployJob) and job.state_key is not None and unidentified(job.preprocessor):
                store.remove("preprocess", job.state_key)

    remove()
    try:
        yield
    finally:
        remove()
