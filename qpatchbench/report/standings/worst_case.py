"""Worst case per image: whether any patch fools it, whoever crafted it and on what."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qpatchbench.report.standings.experiments import MemberRow, rate_of
from qpatchbench.report.standings.rate import RateImages, ThreatRate, counted
from qpatchbench.runs.outcomes import StoredOutcomes
from qpatchbench.statistics.intervals import Array, wilson


def worst_case(rows: Sequence[Sequence[MemberRow]]) -> ThreatRate | None:
    """Share of the images classified correctly that at least one patch fools; None without patches.

    Where outcomes of single images are lacking, the highest rate over sources that the log states for one attack: the
    worst case is at least that.

    Args:
        rows: patches of one size on one network, each with its rows over the runs.
    """
    if not rows:
        return None
    members = [member for row in rows for member in row]
    if not all(member.stored for member in members):
        return _bound(rows)
    by_seed: dict[int, list[StoredOutcomes]] = defaultdict(list)
    for member in members:
        for seed, stored in zip(member.seeds, member.stored, strict=True):
            by_seed[seed].append(stored)
    whole = [by_seed[seed] for seed in sorted(by_seed)]
    names = {(each.ids, each.outcomes.labels.tobytes()) for found in whole for each in found}
    if len(names) > 1:  # other images in another run: no image is the worst of both
        return _bound(rows)
    fooled = np.stack([_any([each.outcomes.fooled for each in found]) for found in whole])
    correct = np.stack([_any([each.outcomes.eligible for each in found]) for found in whole])
    return counted(RateImages(fooled, correct, (*names.pop(), "worst case")))


def _any(found: Sequence[Array]) -> Array:
    """(1, images) boolean, over rows and goals."""
    return np.asarray(np.concatenate(found).any(axis=0))[None]


def _bound(rows: Sequence[Sequence[MemberRow]]) -> ThreatRate:
    found = []
    for row in rows:
        own = rate_of(row, "asr")
        joint = rate_of(row, "asr_worst")
        found.append(own if math.isnan(joint.value) or joint.value < own.value else _with_interval(joint, row))
    return replace(max(found, key=lambda rate: rate.value), at_least=True, images=None, attack="", source="", checks="")


def _with_interval(rate: ThreatRate, row: Sequence[MemberRow]) -> ThreatRate:
    """Wilson's over the images of one seed: goals and seeds of the same image are no further images."""
    images = max(member.row.count("n_images") for member in row)
    trials = min(rate.trials, images)
    low, high = wilson(round(rate.value / 100 * trials), trials) if trials else (math.nan, math.nan)
    return replace(rate, low=100 * low, high=100 * high)
