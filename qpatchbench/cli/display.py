"""The progress of a run: a live display on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from qpatchbench.suite.execution.executor import Display
from qpatchbench.suite.jobs.base import Job
from qpatchbench.suite.plan.plan import Plan
from qpatchbench.suite.plan.sizes import estimated_sizes
from qpatchbench.suite.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console

ROOMY = 100  # columns of text that leave room for a long bar


@contextmanager
def make_display(kind: str | None, plan: Plan, store: Store) -> Iterator[Display]:
    """The display that was asked for; by default rich on a terminal and plain lines elsewhere."""
    kind = kind or ("rich" if sys.stdout.isatty() else "plain")
    pace = Pace(plan, store)
    if kind == "none":
        yield Silent()
    elif kind == "plain":
        shown = Plain(pace)
        shown.note(pace.summary())
        yield shown
    else:
        with Rich(pace) as live:
            yield live


class Pace:
    """How many jobs are done, and how long the rest will take, by the cost that jobs declare."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.total = len(plan.jobs)
        sizes = estimated_sizes(plan)
        missing = [job for job in plan.jobs if not store.has(job.kind, job.key)]
        self.cached = self.total - len(missing)
        self.done = self.cached
        self.costs = {job.key: job.cost(sizes) for job in missing}
        self.left = sum(self.costs.values())
        self.spent = 0.0
        self.fractions: dict[str, float] = {}  # of the jobs that run, how far they are
        self.started = time.monotonic()

    def summary(self) -> str:
        """One line before the start."""
        return f"{self.total} jobs, {self.cached} already done"

    def progress(self, job: Job, fraction: float) -> None:
        """A running job is at `fraction` (0..1)."""
        self.fractions[job.key] = fraction

    def finish(self, job: Job) -> None:
        """Count a job as done."""
        self.done += 1
        self.fractions.pop(job.key, None)
        cost = self.costs.pop(job.key, 0.0)
        self.left -= cost
        self.spent += cost

    def time_left(self) -> str:
        """Time left, from the pace so far; "" before there is one."""
        current = sum(self.costs.get(key, 0.0) * fraction for key, fraction in self.fractions.items())
        spent = self.spent + current
        if spent <= 0:
            return ""
        seconds = (time.monotonic() - self.started) * (self.left - current) / spent
        return f"about {clock(seconds)} left"


def clock(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Silent:
    """Shows failures only, on standard error."""

    def started(self, job: Job) -> None:
        """Nothing."""

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def finished(self, job: Job, seconds: float) -> None:
        """Nothing."""

    def failed(self, job: Job, reason: str) -> None:
        """One line."""
        click.echo(f"failed: {job.title}: {reason}", err=True)

    def note(self, text: str) -> None:
        """One line."""
        click.echo(text, err=True)


class Plain:
    """One line per finished job, and one a minute for each that takes longer, for logs.

    Attributes:
        interval: seconds between two lines of one running job.
    """

    def __init__(self, pace: Pace, interval: float = 60.0) -> None:
        self.pace, self.interval = pace, interval
        self.figures: dict[str, Mapping[str, float]] = {}
        self.told: dict[str, float] = {}  # when there was last a line of a running job

    def started(self, job: Job) -> None:
        """Remember nothing of an earlier attempt."""
        self.figures.pop(job.key, None)
        self.told[job.key] = time.monotonic()

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Keep the latest figures for the line that ends the job; a line if the last one is long ago."""
        self.figures[job.key] = dict(figures)
        self.pace.progress(job, fraction)
        now = time.monotonic()
        if now - self.told.setdefault(job.key, now) >= self.interval:
            self.told[job.key] = now
            self._line(job, f"{100 * fraction:.0f} %", figures)

    def finished(self, job: Job, seconds: float) -> None:
        """[done/total] label, seconds, last figures, time left."""
        self.pace.finish(job)
        self.told.pop(job.key, None)
        self._line(job, f"{seconds:.1f} s", self.figures.pop(job.key, {}))

    def _line(self, job: Job, state: str, figures: Mapping[str, float]) -> None:
        parts = [state, *(f"{name} {value:.3g}" for name, value in figures.items()), self.pace.time_left()]
        click.echo(f"[{self.pace.done}/{self.pace.total}] {job.title}: {', '.join(filter(None, parts))}")

    def failed(self, job: Job, reason: str) -> None:
        """The same, with the reason."""
        self.pace.finish(job)
        click.echo(f"[{self.pace.done}/{self.pace.total}] FAILED {job.title}: {reason}", err=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        click.echo(text)


class Rich:
    """A live bar with jobs done and the time left, and below it a line for each running job with its figures."""

    def __init__(self, pace: Pace, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn
        from rich.table import Column

        self.pace = pace
        self.console = console or Console()
        self.bar = Progress(
            BarColumn(bar_width=24 if self.console.width >= ROOMY else 8),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.description}", table_column=Column(overflow="fold", no_wrap=False)),  # never cut
            console=self.console,
            refresh_per_second=4,
        )
        self.all = self.bar.add_task("", total=pace.total, completed=pace.done, count="")
        self.running: dict[str, TaskID] = {}
        self._count()

    def __enter__(self) -> Rich:
        self.bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.bar.stop()

    def started(self, job: Job) -> None:
        """Add a line for the job."""
        self._forget(job)
        self.running[job.key] = self.bar.add_task(_escaped(job.title), total=1.0, count="0 %")

    def progressed(self, job: Job, fraction: float, figures: Mapping[str, float]) -> None:
        """Show figures and time left."""
        if job.key not in self.running:
            return
        self.pace.progress(job, fraction)
        shown = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.bar.update(
            self.running[job.key],
            completed=fraction,
            count=f"{100 * fraction:.0f} %",
            description=f"{_escaped(job.title)} [dim]{shown}[/dim]",
        )
        self._count()

    def finished(self, job: Job, seconds: float) -> None:
        """Advance the bar, and drop the job's line."""
        self._forget(job)
        self.pace.finish(job)
        self._count()

    def failed(self, job: Job, reason: str) -> None:
        """The same, and keep the reason on the screen."""
        self.console.print(f"[red]failed[/red] {_escaped(job.title)}: {_escaped(reason)}")
        self.finished(job, 0.0)

    def note(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(_escaped(text))

    def _count(self) -> None:
        count = f"{self.pace.done}/{self.pace.total} jobs"
        self.bar.update(self.all, completed=self.pace.done, count=count, description=self.pace.time_left())

    def _forget(self, job: Job) -> None:
        line = self.running.pop(job.key, None)
        if line is not None:
            self.bar.remove_task(line)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
