"""Losses, passes, checks and tables of a run that only the cache remembers: nothing computes them again.

It speaks of a patch only where its bytes are those of the run: somebody else may have crafted another one under the
same key, on another machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from qpatchbench.errors import ArtifactError
from qpatchbench.runs.files import sha256_of
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import MAPS, TABLES, patch_file
from qpatchbench.runs.parquet_tables import read_rows
from qpatchbench.runs.patch_file import StoredPatch, read_patch
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.suite.execution.export_analyses import AnalysisJob, maps_of, named
from qpatchbench.suite.jobs.audit import AuditJob
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, TrainJob
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.verification.rebuilding import Rebuilt, same_machine
from qpatchbench.suite.work.audit import audit_check


class Remembered:
    """The artifacts of a run's own jobs, as far as this machine has them."""

    def __init__(self, run: Rebuilt) -> None:
        self._run = run
        self._crafted: dict[str, Artifact | None] = {}

    def crafted(self, job: CraftJob) -> Artifact | None:
        """What crafting a patch left behind, where it left the very patch of the run folder."""
        if job.key not in self._crafted:
            found = self._read(job)
            path = self._run.folder / patch_file(job.short_key)
            same = found is not None and path.is_file() and _same_patch(found, read_patch(path))
            self._crafted[job.key] = found if same else None
        return self._crafted[job.key]

    def checks_of(self, job: CraftJob) -> list[Check] | None:
        """What was found of a patch while it was crafted; None where nobody remembers."""
        found = self.crafted(job)
        return None if found is None else [Check(**check) for check in found.facts["checks"]]

    def audits_of(self, cell: EvaluateJob) -> list[Check] | None:
        """V11, V12 and V14 of a cell; None where one of its audits is not remembered."""
        found = []
        for job in self._audits.get(cell.key, []):
            artifact = self._read(job)
            if artifact is None:
                return None
            found.append(audit_check(job, artifact))
        return found

    @cached_property
    def _audits(self) -> dict[str, list[AuditJob]]:
        audits: dict[str, list[AuditJob]] = {}
        for job in self._run.plan.audits:
            audits.setdefault(job.cell.key, []).append(job)
        return audits

    def _read(self, job: Job) -> Artifact | None:
        try:
            return self._run.bench.store.read(job.kind, job.key)
        except ArtifactError:
            return None

    def patch_findings(self, cells: Sequence[CellRecord]) -> Iterator[str]:
        """Losses, and passes of records, that are not those of the same patch in the cache."""
        records: dict[str, list[CellRecord]] = {}
        for cell in cells:
            if cell.status == "ok":
                records.setdefault(cell.patch, []).append(cell)
        forgotten = 0
        for job in {cell.patch.key: cell.patch for cell in self._run.cells}.values():
            mine = records.get(job.short_key, [])
            if not mine:
                continue
            artifact = self.crafted(job)
            if artifact is None:
                forgotten += 1
                continue
            history = read_patch(self._run.folder / patch_file(job.short_key)).history.tolist()
            if history != artifact.facts["history"]:
                yield f"{patch_file(job.short_key)}: history: expected the losses of this very patch, found others"
            for way, count in artifact.facts.get("passes", {}).items():
                for cell in mine:
                    if (found := getattr(cell, f"{way}_passes")) != count:
                        text = f"{way}_passes: expected {count}, found {found}"
                        yield f"cells.parquet, cell {cell.cell}: {text}"
        if forgotten:
            yield Unchecked(f"losses and passes of {forgotten} patches (--recraft N crafts some anew)")

    def weight_findings(self) -> Iterator[str]:
        """Checkpoints whose hash is not that of the cache, and those that the cache lacks."""
        told = {str(entry.get("key")): entry.get("sha256") for entry in self._run.manifest.get("checkpoints", ())}
        missing = 0
        for job in (job for job in self._run.plan.jobs if isinstance(job, TrainJob)):
            digest = self._run.bench.store.digest(job.kind, job.key)
            missing += not digest
            if digest and job.key in told and told[job.key] != digest:
                text = f"expected {digest[:16]}..., as the cache has it, found {str(told[job.key])[:16]}..."
                yield f"manifest.json, checkpoint {job.short_key}: sha256: {text}"
        if missing:
            yield Unchecked(f"the weights of {missing} checkpoints that are not in the cache")

    def analysis_findings(self) -> Iterator[str]:
        """Tables of costs, similarities and maps that are not those of the cache."""
        analyses = self._run.plan.analyses
        for kind in dict.fromkeys(job.kind for job in analyses):
            jobs: list[AnalysisJob] = [job for job in analyses if job.kind == kind]
            found = [(job, self._read(job)) for job in jobs]
            known = [named(job, artifact) for job, artifact in found if artifact is not None]
            files = {name: self._run.folder / file for name, file in TABLES[kind].items()}
            if len(known) < len(jobs) or not same_machine(self._run, [job.key for job in jobs]):
                yield Unchecked(
                    ", ".join([*(path.name for path in files.values()), *([MAPS] if kind == "maps" else [])])
                )
                continue
            for name, path in files.items():
                if _rows([row for artifact in known for row in artifact.facts[name]]) != _rows(read_rows(path)):
                    text = f"{path.name}: expected the rows that the cache has of the same jobs, found others"
                    yield Unchecked(f"{path.name}, measured otherwise in the cache") if jobs[0].alone else text
            if kind == "maps" and sha256_of(self._run.folder / MAPS) != hashlib.sha256(maps_of(known)).hexdigest():
                yield f"{MAPS}: expected the maps that the cache has of the same jobs, found others"


def _rows(rows: Sequence[dict[str, object]]) -> list[dict[str, str]]:
    """Rows without what they lack, as text, in which one NaN is another."""
    return [{name: repr(value) for name, value in row.items() if value is not None} for row in rows]


def _same_patch(artifact: Artifact, stored: StoredPatch) -> bool:
    arrays = artifact.arrays
    return np.array_equal(arrays["textures"], stored.textures) and np.array_equal(arrays["masks"], stored.masks)
