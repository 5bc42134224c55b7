"""What many jobs cost besides their work: `python -m tests.bench.scale`, for quiet cores.

Planning, keeping and scheduling jobs of no work, up to a hundred thousand, and a small suite on two workers beside the
same run one job after the other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from qpatchbench.cli.display import Silent
from qpatchbench.suite.execution.executor import Execution
from qpatchbench.suite.file.load import suite_from
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.base import DataKeys, Job
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.types import Progress
from tests.bench.__main__ import show
from tests.bench.timing import Row, seconds

SEEDS = (6, 60, 600)  # some 170 jobs each
KEPT = (1_000, 10_000, 100_000)
PLANNED: dict[str, Any] = {
    "suite": "planned",
    "dataset": {"name": "digits"},
    "models": [{"name": "resnet20"}],
    "defenses": [{"name": "qat"}, {"name": "any_precision"}],
    "quantizers": [{"name": "qat", "bits": ["32", "8", "4", "2"]}],
    "attacks": [{"name": "lavan", "size": size, "targets": "untargeted"} for size in (4, 6, 8)],
    "transfer": {"sources": ["all"]},
}
RUN: dict[str, Any] = {
    "suite": "two_workers",
    "dataset": {"name": "digits", "image_size": 16},
    "models": ["resnet20"],
    "training": {"epochs": 1, "batch_size": 64},
    "defenses": ["qat"],
    "quantizers": [{"name": "qat", "bits": [32, 4]}],
    "attacks": [
        {"name": "lavan", "label": f"lavan_{steps}", "size": 4, "targets": "untargeted", "steps": steps}
        for steps in range(80, 92)
    ],
    "transfer": {"sources": [32, "same"]},
    "evaluation": {"images": 200},
    "seeds": [0, 1, 2],
}


class Idle:
    """A worker that has nothing to do."""

    device = torch.device("cpu")

    def work(self, job: Job, progress: Progress) -> Artifact:
        """An empty artifact."""
        return Artifact({}, {})


def plan_of(seeds: int) -> Plan:
    """The plan of a suite with so many seeds."""
    return unseen(suite_from({**PLANNED, "seeds": list(range(seeds))}, "bench"))


def unseen(suite: Suite) -> Plan:
    """The plan of a suite of ResNet-20s, on images that nobody has."""
    keys = DataKeys(train="train", calibration="calibration", craft="craft", evaluation="evaluation")
    return make_plan(suite, {"resnet20": keys}, {"resnet20": ""})


def planning() -> Iterator[Row]:
    """Seconds per thousand jobs, which should not grow with their number."""
    for seeds in SEEDS:
        made: list[Plan] = []
        taken = seconds(lambda seeds=seeds, made=made: made.append(plan_of(seeds)))  # type: ignore[misc]
        jobs = len(made[0].jobs)
        yield Row(f"plan, {jobs:,} jobs", f"{taken:.2f} s", f"{1e6 * taken / jobs:.0f} us a job")


def keeping(root: Path) -> Iterator[Row]:
    """Microseconds to write, find and read an artifact among so many."""
    store, there = Store(root), 0
    for count in KEPT:
        names = [f"{index:032x}" for index in range(there, count)]
        there = count

        def write(names: list[str] = names) -> None:
            for name in names:
                store.write("train", name, Artifact({}, {}))

        written = seconds(write)
        last = names[-1000:]
        found = seconds(lambda last=last: [store.has("train", name) for name in last])  # type: ignore[misc]
        read = seconds(lambda last=last: [store.read("train", name) for name in last])  # type: ignore[misc]
        each = [1e6 * written / len(names), 1e6 * found / len(last), 1e6 * read / len(last)]
        told = f"{each[0]:.0f} us to write, {each[1]:.0f} to find, {each[2]:.0f} to read"
        yield Row(f"store, {count:,} artifacts", f"{each[0] + each[1] + each[2]:.0f} us", told)


def scheduling(root: Path) -> Iterator[Row]:
    """Milliseconds that a job of no work costs."""
    whole = plan_of(SEEDS[1])
    execution = Execution(whole, Store(root), Idle(), Silent())
    taken = seconds(execution.run)
    jobs = len(execution.ran)
    assert jobs == len(whole.jobs), execution.errors
    yield Row(f"{jobs:,} jobs of no work", f"{1e3 * taken / jobs:.2f} ms a job", "goal: at most 5")
    again = seconds(execution.run)
    yield Row("the same, all done", f"{1e3 * again / jobs:.2f} ms a job", "each is read and its bytes are checked")


def workers(root: Path) -> Iterator[Row]:
    """Wall time of a run one by one, over that of two processes and of two Ray workers; one thread each."""
    (root / "suite.yaml").write_text(yaml.safe_dump(RUN))

    def run(name: str, *options: str) -> Callable[[], None]:
        def ran() -> None:
            place = {"QPATCHBENCH_CACHE": str(root / name / "cache"), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "qpatchbench", "run", str(root / "suite.yaml"), "--display", "none"]
            subprocess.run(
                [*command, "--output", str(root / name / "out"), "--device", "cpu", *options],
                env={**os.environ, **place}, check=True, capture_output=True,
            )  # fmt: skip

        return ran

    jobs = len(unseen(suite_from(RUN, "bench")).jobs)
    alone = seconds(run("serial"))
    yield Row(f"a suite of {jobs} jobs, one by one", f"{alone:.0f} s", "one thread")
    for executor in ("process", "ray"):
        taken = seconds(run(executor, "--executor", executor, "--workers", "2"))
        yield Row(f"two workers, {executor}", f"{alone / taken:.2f} x", "times as fast; goal: 1.7 on two idle cores")


SECTIONS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "plan": lambda root: planning(),
    "store": keeping,
    "jobs": scheduling,
    "workers": workers,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections to run; default: all")
    for name in parser.parse_args().only or SECTIONS:
        with tempfile.TemporaryDirectory() as folder:
            for row in SECTIONS[name](Path(folder)):
                show([row])


if __name__ == "__main__":
    main()
