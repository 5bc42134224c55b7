"""A bar with the jobs of a run, in a notebook or on a terminal; elsewhere nothing but failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from qpatchbench.suite.execution.executor import Display
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.store.store import Store


def is_watched() -> bool:
    """Whether somebody looks: a notebook, or a terminal."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


@contextmanager
def progress_bar(plan: Plan, store: Store, *, shown: bool | None = None) -> Iterator[Display]:
    """A bar over the jobs of a plan, those that are done already included.

    Args:
        plan: what there is to do.
        store: where finished jobs are.
        shown: whether to draw it; None: where somebody looks.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    visible = is_watched() if shown is None else shown
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True, force_jupyter="ipykernel" in sys.modules)
    with Progress(*columns, console=console, disable=not visible) as bar:
        yield _Jobs(bar, plan, store)


class _Jobs:
    def __init__(self, bar: object, plan: Plan, store: Store) -> None:
        from rich.progress import Progress

        assert isinstance(bar, Progress), "made above"
        self.bar = bar
        done = sum(store.has(job.kind, job.key) for job in plan.jobs)
        self.task = bar.add_task("", total=len(plan.jobs), completed=done)

    def started(self, job: Job) -> None:
        """Its title beside the bar."""
        self._say(job.title)

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Its figures beside the title."""
        self._say(f"{job.title} {100 * fraction:.0f} %")

    def finished(self, job: Job, seconds: float) -> None:
        """One more is done."""
        self.bar.update(self.task, advance=1, description="")

    def failed(self, job: Job, reason: str) -> None:
        """The same, and the reason stays."""
        print(f"failed: {job.title}: {reason}", file=sys.stderr)
        self.finished(job, 0.0)

    def note(self, text: str) -> None:
        """A line of its own."""
        print(text, file=sys.stderr)

    def _say(self, text: str) -> None:
        from rich.markup import escape

        self.bar.update(self.task, description=escape(text))
