"""Some patches of a run crafted anew, and compared with those of its folder."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from qpatchbench.attacks.base import Attack
from qpatchbench.attacks.universal import UniversalAttack
from qpatchbench.component import versions_of
from qpatchbench.evaluation.checks.convergence import noise
from qpatchbench.ops.patches.pasting import to_uint8
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.patch_file import read_patch
from qpatchbench.suite.jobs.pipeline import CraftJob
from qpatchbench.suite.verification.rebuilding import Rebuilt, same_machine
from qpatchbench.suite.work.craft import craft_task, crafted, patch_from, patch_of, stored_patch
from qpatchbench.types import silent

FEWEST_STEPS = 10
PART, SPREADS = 0.5, 3  # of a history's range, and of the noise of its steps: true patches were within 0.17 and 1
TOLERANCE = 0.1  # of the last loss, relative to how far it fell, where another machine crafted the patch


class Recrafted(NamedTuple):
    """A patch that was crafted anew.

    Attributes:
        label: of its job.
        wrong: what is not as it should be; "" where nothing is.
    """

    label: str
    wrong: str


def recrafted(run: Rebuilt, count: int) -> Iterator[Recrafted]:
    """Craft that many patches of gradient or score-based attacks again, drawn anew at every call."""
    jobs = {job.patch.key: job.patch for job in run.cells if job.patch.sources}
    ready = [job for job in jobs.values() if _at_hand(run, job) and not _changed_since(job.attack)]
    for job in random.sample(ready, min(count, len(ready))):
        yield Recrafted(job.label, _compared(run, job))


def control_findings(run: Rebuilt) -> Iterator[str]:
    """Controls that are not what their seed gives: no network had a part in them, so that they are made in no time."""
    for job in {cell.patch.key: cell.patch for cell in run.cells if not cell.patch.sources}.values():
        path = run.folder / patch_file(job.short_key)
        if not path.is_file():
            continue
        again, found = patch_from(crafted(run.bench, job, silent)), stored_patch(read_patch(path))
        same = torch.equal(again.textures, found.textures) and torch.equal(again.masks, found.masks)
        if not same or again.history != found.history:
            yield f"{patch_file(job.short_key)}: expected the control that its seed gives, found another patch"


def loss_findings(run: Rebuilt) -> Iterator[str]:
    """Histories that end at a loss which their patch is far from, where the attack can tell the loss of a patch."""
    for job in {cell.patch.key: cell.patch for cell in run.cells if cell.patch.sources}.values():
        attack, path = job.attack, run.folder / patch_file(job.short_key)
        known = isinstance(attack, UniversalAttack) and type(attack).craft is UniversalAttack.craft
        if not isinstance(attack, UniversalAttack) or not known or not path.is_file() or not _at_hand(run, job):
            continue
        if _changed_since(attack):
            continue
        patch = stored_patch(read_patch(path))
        history = np.array(patch.history)
        if len(history) < FEWEST_STEPS:
            continue
        loss = attack.loss_of(craft_task(run.bench, job, None, silent), patch)
        last, margin = history[-(len(history) // 10) :].mean(), PART * np.ptp(history) + SPREADS * noise(history)
        # A patch is the best of several iterates, and so may be better than where its history ends.
        if not history.min() - margin <= loss <= last + margin:
            yield f"{patch_file(job.short_key)}: history: expected it to end near {loss:.3g}, found {last:.3g}"


def _changed_since(attack: Attack) -> bool:
    """Whether its patches are of an earlier version, as `earlier_versions` found it."""
    recorded = attack.identity()
    with versions_of({}):
        return attack.identity() != recorded


def _at_hand(run: Rebuilt, job: CraftJob) -> bool:
    store = run.bench.store
    return all(store.has(source.checkpoint.kind, source.checkpoint.key) for source in (*job.sources, *job.siblings))


def _compared(run: Rebuilt, job: CraftJob) -> str:
    per_image = job.attack.kind == "per_image"
    model = job.sources[0].checkpoint.model
    for source in (*job.sources, *job.siblings):
        run.bench.answering(source, "craft", job.key)
    again = patch_of(run.bench, job, run.bench.evaluation_images(model) if per_image else None, silent)
    found = stored_patch(read_patch(run.folder / patch_file(job.short_key)))
    textures = [to_uint8(patch.textures) for patch in (again, found)]
    differ = int((textures[0] != textures[1]).sum()) if textures[0].shape == textures[1].shape else textures[0].numel()
    if differ and same_machine(run, [job.key]):
        return f"expected the same texture, found {differ} of {textures[0].numel()} values that differ"
    if not torch.equal(again.masks.bool(), found.masks.bool()):
        return "expected the same masks, found others"
    if again.history and found.history:
        last, told = again.history[-1], found.history[-1]
        if abs(last - told) > TOLERANCE * (max(again.history) - min(again.history)):
            return f"expected a history that ends at a loss of {last:.4g}, found one that ends at {told:.4g}"
    return ""
