"""`qpatchbench run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, SUITE, cache_dir, data_dir, with_shorthands

if TYPE_CHECKING:
    from qpatchbench.suite.plan import Plan

FORMATS = ("csv", "md", "tex", "html")


@click.command("run")
@SUITE
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Run folder [default: results/<suite>]."
)
@SCALE
@SET
@DATA_DIR
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@LIMIT
@SEEDS
@click.option("--executor", type=click.Choice(["serial"]), default="serial", show_default=True, help="Where jobs run.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--fresh", is_flag=True, help="Compute every job of this suite again.")
@click.option("--checks", type=click.Choice(["off", "fast", "full"]), help="Validity checks instead of the suite's.")
@click.option("--display", type=click.Choice(["rich", "plain", "none"]), help="Progress [default: rich on a terminal].")
def run(
    suite: Path,
    output: Path | None,
    scale: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    device: str,
    limit: int | None,
    seeds: str | None,
    executor: str,
    dry_run: bool,
    fresh: bool,
    checks: str | None,
    display: str | None,
) -> int:
    """Run SUITE: train or load models, craft patches, transfer them, write leaderboards and plots.

    The same command again resumes: what is finished is never computed twice.
    """
    from qpatchbench.cli.running import execute_suite
    from qpatchbench.suite.load import load_with_source

    extra = [] if checks is None else [f"evaluation.checks={checks}"]
    loaded, source = load_with_source(suite, [*with_shorthands(overrides, limit, seeds), *extra], scale)
    if dry_run:
        from qpatchbench.cli.plan import show_plan

        show_plan(loaded, source, data_dir)
        return 0
    return execute_suite(
        loaded,
        source,
        output=output or Path("results") / loaded.suite,
        data_dir=_data_dir(data_dir),
        cache=cache_dir(),
        device=device,
        fresh=fresh,
        display=display,
    )


_data_dir = data_dir


def is_complete(output: Path, plan: Plan) -> bool:
    """Whether the run folder already holds the complete results and report of this plan."""
    try:
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        report = json.loads((output / ".report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(manifest, dict) or not isinstance(report, dict):
        return False
    unchanged = report.get("plan") == manifest.get("plan") == plan.key and manifest.get("complete") is True
    written = [*report.get("files", ["?"]), *manifest.get("files", ["?"])]
    return unchanged and all((output / name).is_file() for name in written)


COMMANDS = {"run": run}
