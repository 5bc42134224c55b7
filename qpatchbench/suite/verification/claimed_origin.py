"""Place and time of the work of a run, held against this machine and what its cache remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from qpatchbench.labels import shown
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.plugin_facts import plugins_of
from qpatchbench.suite.store.provenance import git_state, mixture, ran_on, versions
from qpatchbench.suite.store.store import Store


def origin_claims(manifest: Mapping[str, Any], device: torch.device) -> Iterator[str]:
    """Versions, revision and device that are not those here, which makes them claims."""
    here = {
        "versions": versions(),
        "git": git_state(),
        "device": str(device),
        "ran_on": ran_on(device),
    }
    for name, value in here.items():
        if manifest.get(name) != value:
            yield Unchecked(f"{name} of manifest.json: {_difference(manifest.get(name), value)}")


def job_claims(manifest: Mapping[str, Any], plan: Plan, store: Store) -> Iterator[str]:
    """Times and devices of jobs that the cache does not remember so."""
    told = {(str(job.get("kind")), str(job.get("key"))): job for job in manifest.get("jobs", ())}
    unknown, failed, places = 0, 0, []
    for job in plan.jobs:
        entry = told.get((job.kind, job.key), {})
        if "error" in entry:
            failed += 1
            continue
        made = store.facts(job.kind, job.key).get("made", {})
        expected = {name: made[name] for name in ("seconds", "device") if name in made}
        if made.get("git", {}).get("dirty"):
            expected["dirty"] = True
        unknown += not made or {name: entry[name] for name in entry.keys() - {"kind", "key", "label"}} != expected
        places.append(made.get("ran_on", {}))
    if unknown:
        yield Unchecked(f"times and devices of {unknown} of {len(plan.jobs)} jobs")
    if failed:
        yield Unchecked(f"that {failed} jobs failed")
    if manifest.get("mixed") != mixture(places):
        yield Unchecked(f"whether it is mixed: {shown(str(manifest.get('mixed'))) or 'no'}")
    if manifest.get("plugins") != plugins_of(plan.suite):
        yield Unchecked("the components from outside that it names")


def _difference(found: object, here: object) -> str:
    """The fields that differ, or the values."""
    if isinstance(found, Mapping) and isinstance(here, Mapping):
        names = [name for name in {**here, **found} if here.get(name) != found.get(name)]
        pairs = [f"{shown(str(name))} {_short(found.get(name))}, here {_short(here.get(name))}" for name in names]
        return "; ".join(pairs)
    return f"{_short(found)}, here {_short(here)}"


def _short(value: object) -> str:
    text = shown(str(value))
    return text if len(text) <= 60 else f"{text[:60]}..."
