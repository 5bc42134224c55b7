"""Bytes that jobs took of a machine, beside estimated ones; later estimates are multiplied by their ratio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qpatchbench.data.cache import read_sealed, write_sealed
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.needs.disk import stored_bytes
from qpatchbench.suite.needs.memory import Surroundings, peak_bytes
from qpatchbench.suite.plan.paces import load_of, place_of
from qpatchbench.suite.store.store import Store

FILE = "needs.json"
DISK = "disk"  # the place of bytes on disk, which are the same everywhere
_SANE = (0.1, 10.0)  # beyond that an estimate is about something else


@dataclass(frozen=True)
class Experience:
    """Taken bytes divided by estimated ones.

    Attributes:
        ratios: place (`paces.place_of`, or DISK) -> the text of a load -> ratio.
    """

    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def ratio(self, place: str, job: Job) -> float | None:
        """That of jobs like this one; None where none ended."""
        return self.ratios.get(place, {}).get(str(load_of(job)))


def read_experience(cache: Path) -> Experience:
    """What is known; nothing where the file is not there, or not as it was written."""
    return Experience(read_sealed(cache / FILE) or {})


def remember_needs(cache: Path, jobs: Iterable[Job], store: Store, around: Surroundings) -> None:
    """Keep what finished jobs took: on disk all in all, in memory the most; the newest run of a load counts.

    Raises:
        StorageError: the disk refuses.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    expected: dict[str, float] = defaultdict(float)
    peaks: dict[str, dict[str, float]] = defaultdict(dict)
    for job in jobs:
        load, made = str(load_of(job)), store.facts(job.kind, job.key).get("made", {})
        estimated = stored_bytes(job, around.sizes, around.footprints)
        if estimated and (size := store.size(job.kind, job.key)):
            taken[load].append(size)
            expected[load] += estimated
        peak = peak_bytes(job, around)
        if peak and made.get("peak_bytes"):
            place = place_of(made["ran_on"])
            peaks[place][load] = max(peaks[place].get(load, 0.0), made["peak_bytes"] / peak)
    found = {DISK: {load: sum(sizes) / expected[load] for load, sizes in taken.items()}, **peaks}
    before = read_experience(cache).ratios
    known = dict(before)
    for place, ratios in found.items():
        if ratios:
            bounded = {load: min(max(ratio, _SANE[0]), _SANE[1]) for load, ratio in ratios.items()}
            known[place] = {**known.get(place, {}), **bounded}
    if known != before:
        write_sealed(cache / FILE, known)
