"""The validity checks of cells made again, and the facts of networks: a record may not say less than they find."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from qpatchbench.evaluation.checks.artifacts import merged
from qpatchbench.evaluation.checks.convergence import has_converged
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob
from qpatchbench.suite.verification.rebuilding import Rebuilt, same_machine
from qpatchbench.suite.verification.relabelling import MEASURED_OF_NETWORKS
from qpatchbench.suite.verification.remembering import Remembered
from qpatchbench.suite.work.craft import stored_patch, vetted
from qpatchbench.suite.work.evaluate import answered_twice, predicted

SEVERITY = {"not-run": 0, "pass": 1, "warn": 2, "fail": 3}
NEAR = 1e-4  # relative; figures are sums, which a job that came before may order otherwise


def check_findings(run: Rebuilt, cells: Sequence[CellRecord]) -> Iterator[str]:
    """Checks that find something else than the record of a cell says, where the cell was computed on a like machine."""
    known, jobs = Remembered(run), {job.short_key: job for job in run.cells}
    patches: dict[str, list[Check]] = {}
    unmade, partly = 0, 0
    for cell in cells:
        job = jobs.get(cell.cell)
        if job is None or cell.status != "ok":
            continue
        if run.bench.suite.evaluation.checks == "off":
            if cell.checks:
                yield f"cells.parquet, cell {cell.cell}: checks: expected none, since they are off, found some"
            continue
        if not same_machine(run, [job.key]) or not _at_hand(run, (job.target, *job.patch.sources, *job.patch.siblings)):
            unmade += 1
            continue
        whole = known.checks_of(job.patch)
        if job.patch.key not in patches:
            patches[job.patch.key] = whole if whole is not None else _of_patch(run, job.patch)
        audits = known.audits_of(job)
        expected = _expected(run, job, patches[job.patch.key], audits or [])
        partly += whole is None or audits is None
        yield from _differing(cell, expected, everything=whole is not None and audits is not None)
    if unmade:
        yield Unchecked(f"the checks of {unmade} cells, of another machine or of networks that are not at hand")
    if partly:
        yield Unchecked(f"those checks of {partly} cells that are made while a patch is crafted")


def size_findings(run: Rebuilt, cells: Sequence[CellRecord]) -> Iterator[str]:
    """Sizes of networks in the records of cells that are others than the networks have, whatever checks were asked."""
    jobs = {job.short_key: job.target for job in run.cells}
    unmade = 0
    for cell in cells:
        target = jobs.get(cell.cell)
        if target is None or cell.status != "ok":
            continue
        if not _at_hand(run, (target,)):
            unmade += 1
            continue
        size = run.network(target).facts.get("size", {})
        for name in ("parameters", "multiplications", "model_bytes"):
            if getattr(cell, name) != size.get(name):
                found = f"expected {size.get(name)}, found {getattr(cell, name)}"
                yield f"cells.parquet, cell {cell.cell}: {name}: {found}"
    if unmade:
        yield Unchecked(f"the sizes of networks in {unmade} cells, which are not at hand")
    if timed := sum(cell.latency_ms is not None for cell in cells):
        yield Unchecked(f"the latency in {timed} cells, which another run measures otherwise")


def network_findings(run: Rebuilt) -> Iterator[str]:
    """What the manifest says of networks and measuring them again does not."""
    entries = {str(entry.get("network")): entry for entry in run.manifest.get("networks", ())}
    unmade = 0
    for job in (job for job in run.plan.jobs if isinstance(job, DeployJob)):
        entry = entries.get(job.short_key, {})
        if not entry.keys() & MEASURED_OF_NETWORKS:
            continue
        if not _at_hand(run, (job,)) or not same_machine(run, [job.key]):
            unmade += 1
            continue
        facts = run.network(job).facts
        for name in sorted(MEASURED_OF_NETWORKS):
            expected, found = _untimed(facts.get(name)), _untimed(entry.get(name))
            if expected != found and not _near(expected, found):
                text = f"expected {str(expected)[:80]}, found {str(found)[:80]}"
                yield f"manifest.json, network {job.short_key}: {name}: {text}"
    if unmade:
        yield Unchecked(f"clean counts and levels of {unmade} networks, of another machine or not at hand")


def _expected(run: Rebuilt, job: EvaluateJob, patch: list[Check], audits: list[Check]) -> tuple[Check, ...]:
    """The checks of a cell, merged as a run merges them."""
    network = [Check(**check) for check in run.network(job.target).facts["checks"]]
    found = [*patch, *network, Check(id="V10", verdict="pass")]
    if job.short_key in run.certificates:
        found.append(run.certificates[job.short_key])
    if run.bench.suite.deployment is not None:
        found += _of_runtime(run, job)
    later = []
    if job.patch.sources:
        history = read_patch(run.folder / patch_file(job.patch.short_key)).history
        later = [has_converged(history.tolist()), *audits]
    return merged([*merged(found), *later])


def _differing(cell: CellRecord, expected: Sequence[Check], *, everything: bool) -> Iterator[str]:
    """Checks of a record that are others; where not everything is known, only those that found less."""
    told = {check.id: check for check in cell.checks}
    where = f"cells.parquet, cell {cell.cell}: check"
    for check in expected:
        found = told.pop(check.id, Check(id=check.id, verdict="not-run"))
        verdict = found.verdict if any(each.id == check.id for each in cell.checks) else "nothing"
        if SEVERITY[check.verdict] > max(1, SEVERITY[found.verdict]) or (everything and check.verdict != verdict):
            yield f"{where} {check.id}: expected {check.verdict}, found {verdict}"
        elif everything and (check.message != found.message or not _near(check.figures, found.figures)):
            yield f"{where} {check.id}: expected its words and figures as they are found again, found others"
    if everything:
        for name in told:
            yield f"{where} {name}: expected no such check, found one"


def _untimed(facts: object) -> object:
    """Facts without the one that every run measures otherwise."""
    return {name: value for name, value in facts.items() if name != "latency_ms"} if isinstance(facts, dict) else facts


def _near(expected: object, found: object) -> bool:
    """Whether two JSON values are the same but for the last digits of their numbers."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return expected.keys() == found.keys() and all(_near(expected[name], found[name]) for name in expected)
    if isinstance(expected, float) and isinstance(found, float | int):
        return math.isclose(expected, found, rel_tol=NEAR, abs_tol=NEAR)
    return expected == found


def _at_hand(run: Rebuilt, networks: Sequence[DeployJob]) -> bool:
    store = run.bench.store
    checkpoints = [each.checkpoint for network in networks for each in (network, *network.partners)]
    return all(store.has(checkpoint.kind, checkpoint.key) for checkpoint in checkpoints)


def _of_runtime(run: Rebuilt, job: EvaluateJob) -> list[Check]:
    """V16, from both networks' answers to the stored patch."""
    images = run.bench.evaluation_images(job.target.checkpoint.model)
    patch = stored_patch(read_patch(run.folder / patch_file(job.patch.short_key)))
    predictions, _ = predicted(run.bench, job, patch, images)
    check = answered_twice(run.bench, job, run.network(job.target), patch, images, predictions).check
    return [] if check is None else [check]


def _of_patch(run: Rebuilt, job: CraftJob) -> list[Check]:
    if not job.sources:
        return []
    model = job.sources[0].checkpoint.model
    per_image = job.attack.kind == "per_image"
    images = run.bench.evaluation_images(model) if per_image else run.bench.splits(model).craft.to(run.bench.device)
    return vetted(run.bench, job, images, stored_patch(read_patch(run.folder / patch_file(job.short_key))))
