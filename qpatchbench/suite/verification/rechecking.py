"""The validity checks of networks and patches, made again: a record may not say less than they find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qpatchbench.evaluation.checks.artifacts import merged
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob
from qpatchbench.suite.verification.replay import Rebuilt, same_machine
from qpatchbench.suite.work.craft import stored_patch, vetted
from qpatchbench.suite.work.deploy import deployed

SEVERITY = {"not-run": 0, "pass": 1, "warn": 2, "fail": 3}


def check_findings(run: Rebuilt, cells: Sequence[CellRecord]) -> Iterator[str]:
    """Checks that find more than the record of a cell says, where the cell was computed on a machine like this one."""
    if run.bench.suite.evaluation.checks == "off":
        return
    jobs = {job.short_key: job for job in run.cells}
    networks: dict[str, list[Check]] = {}
    patches: dict[str, list[Check]] = {}
    for cell in cells:
        job = jobs.get(cell.cell)
        if job is None or cell.status != "ok" or not same_machine(run, [job.key]):
            continue
        if not _at_hand(run, (job.target, *job.patch.sources, *job.patch.siblings)):
            continue
        if job.target.key not in networks:
            networks[job.target.key] = _of_network(run, job.target)
        if job.patch.key not in patches:
            patches[job.patch.key] = _of_patch(run, job.patch)
        told = {check.id: check.verdict for check in cell.checks}
        for check in merged([*networks[job.target.key], *patches[job.patch.key]]):
            if SEVERITY[check.verdict] > max(1, SEVERITY[told.get(check.id, "not-run")]):
                found = told.get(check.id, "nothing")
                yield f"cells.parquet, cell {cell.cell}: check {check.id}: expected {check.verdict}, found {found}"


def _at_hand(run: Rebuilt, networks: Sequence[DeployJob]) -> bool:
    store = run.bench.store
    checkpoints = [each.checkpoint for network in networks for each in (network, *network.partners)]
    return all(store.has(checkpoint.kind, checkpoint.key) for checkpoint in checkpoints)


def _of_network(run: Rebuilt, job: DeployJob) -> list[Check]:
    return [Check(**check) for check in deployed(run.bench, job).facts["checks"]]


def _of_patch(run: Rebuilt, job: CraftJob) -> list[Check]:
    if not job.sources:
        return []
    model = job.sources[0].checkpoint.model
    per_image = job.attack.kind == "per_image"
    images = run.bench.evaluation_images(model) if per_image else run.bench.splits(model).craft.to(run.bench.device)
    return vetted(run.bench, job, images, stored_patch(read_patch(run.folder / patch_file(job.short_key))))
