"""`qpatchbench verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import DATA_DIR, cache_dir
from qpatchbench.cli.options import data_dir as chosen_data_dir
from qpatchbench.labels import shown

if TYPE_CHECKING:
    from qpatchbench.suite.execution.replay import Repredicted

MOST = 40  # findings of one kind that are printed


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_OR_ENTRY")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the checkpoints are [default: $QPATCHBENCH_CACHE].",
)
@DATA_DIR
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--decode", is_flag=True, help="Let the folder's suite decide which images are decoded and kept.")
@click.option("--numbers-only", is_flag=True, help="Predict nothing again, even where checkpoints are at hand.")
def verify(
    folder: Path, cache: Path | None, data_dir: Path | None, device: str, decode: bool, numbers_only: bool
) -> int:
    """Recompute every number of a run folder, or of a leaderboard entry, from its bytes.

    Numbers: all counts and the leaderboard are computed again from the outcomes of single images, and every file is
    compared with its hash. This needs neither weights nor images.

    Predictions: where checkpoints are in the cache and the images are found, every stored patch is pasted again and
    every prediction compared. Nothing is trained or crafted. On the same device with the same torch nothing may differ;
    elsewhere nearly tied classes may change sides, within a tolerance that is printed. A manifest alone does not decide
    what is downloaded, read outside of the data folder, or decoded for the first time: the last is allowed by --decode.

    Exit code 0: all that could be checked is as it was; 1: something is not, and named; 2: no run folder.
    """
    from qpatchbench.report.entries.recount import number_findings

    findings = number_findings(folder)
    click.echo(f"numbers: {_found(len(findings)) if findings else 'every count, rate and hash is as it should be'}")
    _list(findings)
    if numbers_only:
        click.echo("predictions: not made again, as asked for")
        return 1 if findings else 0
    wrong = _predict_again(folder, cache or cache_dir(), chosen_data_dir(data_dir), device, decode=decode)
    return 1 if findings or wrong else 0


def _predict_again(folder: Path, cache: Path, data: Path, device: str, *, decode: bool) -> bool:
    """Predict everything again, and tell; whether anything is wrong."""
    from qpatchbench.errors import ArtifactError
    from qpatchbench.evaluation.repeatability import tolerance
    from qpatchbench.runs.run import Run
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.execution.replay import cell_findings, rebuilt, repredictions
    from qpatchbench.suite.execution.strangers import Unavailable

    try:
        run = Run(folder)
        again = rebuilt(folder, run.manifest, cache, data, device_named(device), decode=decode)
    except (ArtifactError, Unavailable) as error:
        click.echo(f"predictions: not made again: {error}")
        return False
    finished = {cell.cell: cell for cell in run.cells if cell.status == "ok"}
    findings = list(cell_findings(again, {cell.cell for cell in run.cells}))
    _list(findings)
    networks = []
    for network in repredictions(again, lambda key: run.stored(finished[key]), set(finished)):
        click.echo(f"  {_summary(network)}")
        _list([*network.findings, *(f"accepted: {text}" for text in network.notes if network.predictions)])
        findings += network.findings
        networks.append(network)
    made = [network for network in networks if network.predictions]
    names = ("cells", "predictions", "differ")
    cells, predictions, differ = (sum(getattr(each, name) for each in made) for name in names)
    click.echo(
        f"predictions: {cells} of {len(finished)} cells made again on {len(made)} of {len(networks)} networks, "
        f"{differ} of {predictions} predictions differ{f', {_found(len(findings))}' if findings else ''}"
    )
    for exact in sorted({network.exact for network in made}, reverse=True):
        click.echo(f"tolerance: {tolerance(exact=exact)}")
    return bool(findings)


def _summary(network: Repredicted) -> str:
    if not network.predictions:
        return f"{network.label}: {'; '.join(network.notes) or _found(len(network.findings))}"
    same = "equal" if not network.differ else f"{network.differ} of {network.predictions} predictions differ"
    return f"{network.label}: {network.cells} cells, {same}"


def _found(count: int) -> str:
    return f"{count} thing{'s' * (count > 1)} wrong"


def _list(texts: Sequence[str]) -> None:
    for text in texts[:MOST]:
        click.echo(f"  - {shown(text)}")
    if len(texts) > MOST:
        click.echo(f"  - and {len(texts) - MOST} more")


COMMANDS = {"verify": verify}
