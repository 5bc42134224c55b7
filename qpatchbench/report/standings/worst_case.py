"""Worst case per image: whether any patch fools it, whoever crafted it and on what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qpatchbench.report.standings.experiments import MemberRow, rate_of
from qpatchbench.report.standings.rate import RateImages, ThreatRate, counted
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
    if not all(member.is_whole for member in members):
        return _bound(rows)
    by_seed: dict[int, tuple[Array, Array]] = {}  # fooled by any patch so far, and attacked by any; (images,) each
    names: set[tuple[object, ...]] = set()
    for member in members:
        for seed, stored in zip(member.seeds, member.stored(), strict=True):
            names.add((stored.ids, stored.outcomes.labels.tobytes()))
            if len(names) > 1:  # other images in another run: no image is the worst of both
                return _bound(rows)
            fooled, attacked = (np.any(each, axis=0) for each in (stored.outcomes.fooled, stored.outcomes.eligible))
            earlier = by_seed.get(seed, (fooled, attacked))
            by_seed[seed] = (fooled | earlier[0], attacked | earlier[1])
    whole = [by_seed[seed] for seed in sorted(by_seed)]
    fooled, attacked = (np.stack([each[place][None] for each in whole]) for place in (0, 1))
    return counted(RateImages(fooled, attacked, (*names.pop(), "worst case")))


def _bound(rows: Sequence[Sequence[MemberRow]]) -> ThreatRate:
    found = []
    for row in rows:
        own = rate_of(row, "asr", with_images=False)
        joint = rate_of(row, "asr_worst")
        found.append(own if math.isnan(joint.value) or joint.value < own.value else _with_interval(joint, row))
    return replace(max(found, key=lambda rate: rate.value), at_least=True, images=None, attack="", source="", checks="")


def _with_interval(rate: ThreatRate, row: Sequence[MemberRow]) -> ThreatRate:
    """Wilson's over the images of one seed: goals and seeds of the same image are no further images."""
    images = max(member.row.count("n_images") for member in row)
    trials = min(rate.trials, images)
    low, high = wilson(round(rate.value / 100 * trials), trials) if trials else (math.nan, math.nan)
    return replace(rate, low=100 * low, high=100 * high)
