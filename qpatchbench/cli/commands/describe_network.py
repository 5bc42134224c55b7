"""`qpatchbench describe network`: the rule by which each tensor of one deployed network is rounded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qpatchbench.cli.options import DATA_DIR, SCALE, SET, SUITE
from qpatchbench.cli.options import data_dir as data_folder
from qpatchbench.errors import QPatchBenchError, suggestion
from qpatchbench.runs.standard_folders import cache_place

if TYPE_CHECKING:
    from qpatchbench.quantizers.inspection.rules import TensorRule
    from qpatchbench.suite.jobs.pipeline import DeployJob
    from qpatchbench.suite.plan.plan import Plan

IMAGES = 8  # calibration images on which inputs are looked at
COLUMNS = ("layer", "tensor", "bits", "grid", "a scale per", "from", "to", "levels", "error")


class Describe(click.Command):
    """`describe KIND NAME`, and `describe network SUITE MODEL QUANTIZER BITS`."""

    def __init__(self, components: click.Command) -> None:
        super().__init__(components.name, help=components.help)
        self.components = components

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 (click's own)
    ) -> click.Context:
        """That of the command which the first argument chooses."""
        if args[:1] == ["network"]:
            return describe_network.make_context(f"{info_name} network", args[1:], parent, **extra)
        return self.components.make_context(info_name, args, parent, **extra)


@click.command("network")
@SUITE
@click.argument("model")
@click.argument("quantizer")
@click.argument("bits")
@SCALE
@SET
@DATA_DIR
@click.option("--defense", help="Which defense's checkpoint; default: the first that is deployed so.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, one per tensor.")
def describe_network(
    suite: Path,
    model: str,
    quantizer: str,
    bits: str,
    scale: str | None,
    overrides: tuple[str, ...],
    data_dir: Path | None,
    defense: str | None,
    as_json: bool,
) -> None:
    """Show what BITS bits mean in a network of SUITE: each tensor's grid, range, levels and error.

    MODEL and QUANTIZER are names or labels as in results, for example resnet20 and ptq-percentile. Levels are counted,
    and errors measured, on calibration images. A network that is trained has to be so already.
    """
    from qpatchbench.ops.patches.pasting import to_float
    from qpatchbench.quantizers.inspection.rules import tensor_rules
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.file.load import load_with_source
    from qpatchbench.suite.plan.fingerprints import weights_keys
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.store.published_store import opened_store
    from qpatchbench.suite.work.train import trained
    from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys
    from qpatchbench.types import silent

    loaded, source = load_with_source(suite, list(overrides), scale)
    bench = Workbench(loaded, opened_store(*cache_place()), data_folder(data_dir), device_named("cpu"))
    plan = make_plan(loaded, loaded_data_keys(bench, source), weights_keys(loaded, source))
    job = _chosen(plan, model, quantizer, bits, defense)
    if not bench.store.has(job.checkpoint.kind, job.checkpoint.key):
        if job.checkpoint.trains:
            raise QPatchBenchError(f"{job.label} has not been trained yet; expected `qpatchbench run {suite}` before")
        bench.store.write(job.checkpoint.kind, job.checkpoint.key, trained(bench, job.checkpoint, silent))
    images = to_float(bench.splits(job.checkpoint.model).calibration.pixels[:IMAGES])
    rules = tensor_rules(bench.network(job), images)
    if as_json:
        click.echo(json.dumps([asdict(rule) for rule in rules], indent=1))
        return
    click.echo(f"{job.label}: {len(rules)} tensors that multiply")
    if rules:
        for line in _lines(rules):
            click.echo(line)


def _chosen(plan: Plan, model: str, quantizer: str, bits: str, defense: str | None) -> DeployJob:
    """The first job that deploys such a network.

    Raises:
        QPatchBenchError: the suite deploys none; names what there is.
    """
    from qpatchbench.types import Bits

    wanted, jobs = str(Bits.parse(bits)), [job.target.bare for job in plan.cells]
    steps = (
        ("model", model, lambda job: {job.checkpoint.model.title, job.checkpoint.model.name}),
        ("quantizer", quantizer, lambda job: {job.quantizer.mode, job.quantizer.title, job.quantizer.name}),
        ("bit-width", wanted, lambda job: {str(job.bits)}),
        ("defense", defense, lambda job: {job.checkpoint.defense.title, job.checkpoint.defense.name}),
    )
    for what, name, names in steps:
        left = [job for job in jobs if name is None or name in names(job)]
        if not left:
            there = sorted(set().union(*(names(job) for job in jobs)))
            raise QPatchBenchError(f"no network with the {what} {name!r} in this suite.{suggestion(str(name), there)}")
        jobs = left
    return jobs[0]


def _lines(rules: Iterable[TensorRule]) -> Iterable[str]:
    rows = [COLUMNS, *(_row(rule) for rule in rules)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(
            text.ljust(width) if column < 5 and column != 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()


def _row(rule: TensorRule) -> tuple[str, ...]:
    grid = {None: "float", True: "symmetric", False: "asymmetric"}[rule.symmetric]
    if rule.symmetric is False and rule.low == 0:
        grid = "unsigned"
    levels = "" if rule.levels is None else str(rule.levels)
    error = "" if rule.error is None else f"{100 * rule.error:.2f} %"
    low, high = f"{rule.low:.4g}", f"{rule.high:.4g}"
    return (rule.layer, rule.tensor, str(rule.bits), grid, rule.granularity, low, high, levels, error)
