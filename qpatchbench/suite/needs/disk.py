"""Bytes that jobs put into the store, and that a run folder takes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeAlias

from qpatchbench.attacks.base import Attack
from qpatchbench.runs.layout import GROUP_ROWS
from qpatchbench.suite.jobs.audit import AuditJob
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.needs.footprints import Footprints
from qpatchbench.suite.plan.plan import Plan

# Measured of runs on digits, CIFAR-10 and ImageNet. What holds arrays is computed.
_FACTS = 1_300  # of an artifact: hashes, provenance
_ENTRY = 75  # of an array in a file
_CHECKED = 2_000  # verdicts of a cell and of its networks
_COUNTS = 45  # of a goal in the record of a cell
_STEP = 21  # a loss, as JSON
_EPOCH = 160
_ROW = 400  # a line of a table of costs or similarities
_MAP_LAYERS = 3
_CELL, _CELLS = 155, 17_500  # in cells.parquet
_OUTCOMES = 60  # of a cell in outcomes.parquet, beside its images and predictions
_NAME = 10  # of an image, once in a row group
_BOARD = 560  # of a cell in leaderboard.csv, .md and .tex
_MANIFEST, _MANIFEST_JOB = 8_000, 360
_PAGE, _PAGE_CELL = 15_000, 1_200
_SHOWN = 8  # images of a gallery
# Kind of picture -> how many a report has at most, bytes of one, and of each mode, goal or target network in it.
_PICTURES = {
    "bits": (6, 15_000, 9_000),
    "transfer": (16, 25_000, 0),
    "patches": (6, 5_000, 4_000),
    "pasted": (8, 70_000, 10_000),
}
_MOST_SHOWN = 20  # goals or networks in one picture

_Parts: TypeAlias = Callable[[EvaluateJob], Iterable[object]]


def stored_bytes(job: Job, sizes: Sizes, footprints: Footprints) -> float | None:
    """Bytes of a job's artifact; None where they are not known, as of a network that has no footprint."""
    match job:
        case TrainJob():
            state = footprints.state(job)
            return None if state is None else state.file + _FACTS + _EPOCH * job.settings.epochs
        case DeployJob():
            return _FACTS + _CHECKED // 4 + _ENTRY + 4 * sizes.evaluation * (2 if "deployment" in job.facts else 1)
        case CraftJob():
            return _FACTS + _patch_bytes(job, sizes) + _STEP * _recorded(job.attack) * bool(job.sources)
        case EvaluateJob():
            each = 4 + 2 + 2 + (8 if job.patch.attack.access == "scores" else 0) + 4 * ("deployment" in job.facts)
            goals = len(job.patch.goals)
            return _FACTS + _CHECKED + 4 * _ENTRY + goals * _COUNTS + (4 + goals * each) * sizes.evaluation
        case AuditJob():
            arrays = (1 + len(job.variants)) * len(job.cell.patch.goals)
            return _FACTS + _ENTRY * (3 + len(job.variants)) + (12 + 4 * arrays) * min(sizes.evaluation, 128)
        case MapsJob():
            return _FACTS + _map_bytes(job)
        case CostJob():
            return _FACTS + _ROW * (len(job.trainings) + len(job.narrowed))
        case SimilarityJob():
            return _FACTS + _ROW * len(job.networks) ** 2 * (2 if job.patch else 1)
    return None


def snapshot_bytes(job: Job, footprints: Footprints) -> float:
    """Bytes of the last snapshot, which a training leaves beside its artifact: weights and momentum."""
    if not isinstance(job, TrainJob) or not job.trains or not job.settings.epochs:
        return 0.0
    state = footprints.state(job)
    return 0.0 if state is None else state.file + state.learned


def decoded_bytes(plan: Plan, sizes: Sizes) -> float:
    """Bytes of the decoded images of a dataset that was never read, as far as the suite tells how many there are."""
    images = sizes.train + sizes.calibration + sizes.craft + sizes.evaluation
    return images * (3.0 * plan.suite.dataset.side**2 + 8 + 2 * 16)


def results_bytes(plan: Plan, sizes: Sizes) -> float:
    """Bytes of the run folder: tables, patches, outcomes, pictures and the report."""
    cells = plan.cells
    classes, side = plan.suite.dataset.num_classes, plan.suite.dataset.side
    label, place = math.log2(max(2, classes)) / 8, math.log2(max(2, side)) / 8
    # Half of what they hold: cells of one network, or of one place, repeat each other.
    images = sizes.evaluation * (place + label)
    rows = [sizes.evaluation * len(cell.patch.goals) for cell in cells]
    outcomes = sum(_OUTCOMES + images + count * label for count in rows)
    outcomes += _NAME * sizes.evaluation * math.ceil(sum(rows) / GROUP_ROWS)
    patches = {cell.patch.key: cell.patch for cell in cells}.values()
    kept = sum(_patch_bytes(patch, sizes) + 8 * _recorded(patch.attack) for patch in patches)
    shown = sum(_shown_bytes(patch) for patch in patches) + 3 * _SHOWN * side**2
    maps = sum(_map_bytes(job) for job in plan.analyses if isinstance(job, MapsJob))
    pictures = _pictures(cells)
    tables = _CELLS + (_CELL + _BOARD) * len(cells) + _MANIFEST + _MANIFEST_JOB * len(plan.jobs)
    page = _PAGE + _PAGE_CELL * len(cells) + pictures
    return outcomes + kept + shown + maps + pictures + tables + page


def _recorded(attack: Attack) -> int:
    return int(getattr(attack, "steps", 0))


def _patch_bytes(job: CraftJob, sizes: Sizes) -> float:
    """Textures and masks in 8 bits; where they were crafted for one image each, places and queries too."""
    per_image = job.attack.kind == "per_image"
    count = len(job.goals) * (sizes.evaluation if per_image else 1)
    more = (16 + (8 if job.attack.access == "scores" else 0)) if per_image else 0
    return count * (4 * job.side**2 + more) + 2 * _ENTRY


def _shown_bytes(job: CraftJob) -> float:
    each = _SHOWN if job.attack.kind == "per_image" else 1
    return len(job.goals) * each * 4 * job.side**2 + 2 * _ENTRY


def _map_bytes(job: MapsJob) -> float:
    """Of each drawn image and content: its pixels, and by bits a gradient with two maps and a CAM with three."""
    pixels, contents = int(job.facts["side"]) ** 2, 3 if job.patch else 2
    by_bits = pixels * (3 * 2 + 2 * 4 + 3 * 4 + _MAP_LAYERS * 2)
    return job.drawn * contents * (3 * pixels + len(job.networks) * by_bits)


def _pictures(cells: tuple[EvaluateJob, ...]) -> float:
    attacked = [cell for cell in cells if not cell.control]

    def drawn(
        kind: str, group: Callable[[EvaluateJob], object], part: Callable[[EvaluateJob], Iterable[object]]
    ) -> int:
        most, size, each = _PICTURES[kind]
        parts: dict[object, set[object]] = defaultdict(set)
        for cell in attacked:
            parts[group(cell)].update(part(cell))
        return sum(size + each * min(_MOST_SHOWN, len(found)) for found in [*parts.values()][:most])

    quantized = [cell for cell in attacked if not cell.target.bits.is_float]
    modes = {(cell.patch.attack.title, _defense(cell), cell.target.quantizer.mode) for cell in quantized or attacked}
    most, size, _ = _PICTURES["transfer"]
    return (
        size * min(most, len(modes))
        + drawn("bits", lambda cell: (cell.patch.side, cell.lineage == "same-network"), _mode)
        + drawn("patches", lambda cell: (cell.patch.side, cell.patch.attack.title), lambda cell: cell.patch.goals)
        + drawn("pasted", lambda cell: (cell.patch.side, cell.patch.attack.title, _defense(cell)), _target)
    )


def _mode(cell: EvaluateJob) -> tuple[str]:
    return (cell.target.quantizer.mode,)


def _target(cell: EvaluateJob) -> tuple[str]:
    return (cell.target.network_key,)


def _defense(cell: EvaluateJob) -> tuple[str, str]:
    return cell.target.checkpoint.model.title, cell.target.checkpoint.defense.title
