"""Seconds for a pass of one image on a device, from runs that ended and from measurements."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from qpatchbench.runs.files import write_atomically
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.store.store import Store
from qpatchbench.types import HALF

FILE = "paces.json"
MEASURED = "measured"  # in the place of a kind of job: passes alone, forwards and backwards
COMPILING = "compiling"  # in the place of a kind of job: no pace, but seconds for each network
_SEPARATOR = " / "


class Load(NamedTuple):
    """What a pace depends on: a kind of job, a model, and whether fake quantizers run, in bfloat16, and compiled."""

    kind: str
    model: str
    quantized: bool
    half: bool = False
    fused: bool = False

    def __str__(self) -> str:
        """One line, as it stands in the file."""
        parts = (self.kind, self.model, "quantized" if self.quantized else "float")
        return _SEPARATOR.join((*parts, *[HALF] * self.half, *["compiled"] * self.fused))


def load_of(job: Job) -> Load:
    """The load that a job is."""
    return Load(job.kind, *job.network, job.half, job.fused)


class Gain(NamedTuple):
    """What fields of a suite gain on a device.

    Attributes:
        fields: as a suite writes them.
        relative_time: of a pass, over that in float32 and uncompiled.
        compiling: seconds that compiling took, once for each network.
    """

    fields: str
    relative_time: float
    compiling: float


@dataclass
class Paces:
    """Seconds per pass by load, on one device.

    Attributes:
        known: by the text of a load.
    """

    known: dict[str, float] = field(default_factory=dict)

    def of(self, load: Load) -> float | None:
        """The pace of a load: of jobs like it, else of passes like its own, else of passes of its float network."""
        passes = load._replace(kind=MEASURED)
        alike = (
            passes._replace(fused=fused, half=half, quantized=way)
            for fused in (load.fused, False)
            for half in (load.half, False)
            for way in (load.quantized, False)
        )
        return next((self.known[str(each)] for each in (load, *alike) if str(each) in self.known), None)

    def gains(self, model: str, quantized: bool) -> Iterator[Gain]:
        """What other fields of a suite make of the time of a measured pass, where both are known."""
        passes = Load(MEASURED, model, quantized)
        plain = self.known.get(str(passes))
        for half, fused in ((True, False), (False, True), (True, True)):
            load = passes._replace(half=half, fused=fused)
            pace, compiling = (self.known.get(str(each)) for each in (load, load._replace(kind=COMPILING)))
            if plain and pace:
                fields = ", ".join([f"precision: {HALF}"] * half + ["compile: true"] * fused)
                yield Gain(fields, pace / plain, compiling or 0.0)


def read_paces(cache: Path, place: str) -> Paces:
    """What is known of a device; nothing where the file is not there or not one of ours."""
    found = _read(cache).get(place, {})
    return Paces({name: float(pace) for name, pace in found.items() if isinstance(pace, int | float) and pace > 0})


def remember(cache: Path, place: str, paces: Mapping[Load, float]) -> None:
    """Keep paces of a device; the newest of a load counts.

    Raises:
        StorageError: the disk refuses.
    """
    if not paces:
        return
    known = _read(cache)
    known[place] = {**known.get(place, {}), **{str(load): pace for load, pace in paces.items()}}
    write_atomically(cache / FILE, json.dumps(known, indent=1, sort_keys=True).encode())


def place_of(ran_on: Mapping[str, str]) -> str:
    """The device and number of threads that a pace belongs to, from `provenance.ran_on`."""
    device, threads = ran_on.get("device", ""), ran_on.get("threads", "1")
    if device != "cpu":
        return device
    return f"{ran_on.get('processor', 'cpu')}, {threads} thread{'' if threads == '1' else 's'}"


def remember_jobs(cache: Path, jobs: Iterable[Job], store: Store, sizes: Sizes) -> None:
    """Keep the mean pace of finished jobs, from the seconds that the store has of them.

    Raises:
        StorageError: the disk refuses.
    """
    passes: dict[tuple[str, Load], float] = defaultdict(float)
    seconds: dict[tuple[str, Load], float] = defaultdict(float)
    for job in jobs:
        made = store.facts(job.kind, job.key).get("made", {})
        if (cost := job.cost(sizes)) > 0 and made.get("seconds"):
            at = place_of(made["ran_on"]), load_of(job)
            passes[at] += cost
            seconds[at] += made["seconds"]
    for place in dict.fromkeys(place for place, _ in passes):
        loads = [load for where, load in passes if where == place]
        remember(cache, place, {load: seconds[place, load] / passes[place, load] for load in loads})


def _read(cache: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads((cache / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kept = found.items() if isinstance(found, dict) else ()
    return {place: paces for place, paces in kept if isinstance(paces, dict)}
