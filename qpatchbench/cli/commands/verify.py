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
@click.option("--run-code", is_flag=True, help="Run the source files that the folder's suite names.")
@click.option("--numbers-only", is_flag=True, help="Predict nothing again, even where checkpoints are at hand.")
@click.option(
    "--recraft", type=click.IntRange(min=0), default=0, help="Craft so many patches anew, and compare [default: none]."
)
def verify(
    folder: Path,
    cache: Path | None,
    data_dir: Path | None,
    device: str,
    decode: bool,
    run_code: bool,
    numbers_only: bool,
    recraft: int,
) -> int:
    """Recompute every number of a run folder, or of a leaderboard entry, from its bytes.

    Numbers: all counts and the leaderboard are computed again from the outcomes of single images, and every file is
    compared with its hash. This needs neither weights nor images.

    Predictions: where checkpoints are in the cache and the images are found, every stored patch is pasted again and
    every prediction compared, and every label of cells, networks, patches and jobs with the plan of the manifest's
    suite. Nothing is trained, and nothing crafted but for --recraft. On the same device with the same torch nothing
    may differ; elsewhere nearly tied classes may change sides, within a tolerance that is printed. A manifest alone
    does not decide what is downloaded, run, read outside of the data folder, or decoded for the first time: the last
    is allowed by --decode, source files of networks by --run-code.

    Exit code 0: everything was checked and holds; 1: something does not, and is named; 2: no run folder; 3: nothing is
    wrong, but a part of the results was taken at its word: "claimed, not checked" says which. Revision, device and
    times of jobs are always claims, and so is that nobody chose a weaker suite.
    """
    from qpatchbench.report.entries.recount import number_findings

    findings = number_findings(folder)
    click.echo(f"numbers: {_found(len(findings)) if findings else 'every count, rate and hash is as it should be'}")
    _list(findings)
    if numbers_only:
        click.echo("predictions: not made again, as asked for")
        return _exit_code(len(findings), ["labels", "predictions"])
    wrong, claims = _predict_again(
        folder,
        cache or cache_dir(),
        chosen_data_dir(data_dir),
        device,
        decode=decode,
        run_code=run_code,
        recraft=recraft,
    )
    return _exit_code(len(findings) + wrong, claims)


def _exit_code(wrong: int, claims: Sequence[str]) -> int:
    if claims:
        click.echo(f"claimed, not checked: {', '.join(claims)}")
    return 1 if wrong else 3 if claims else 0


def _predict_again(
    folder: Path, cache: Path, data: Path, device: str, *, decode: bool, run_code: bool, recraft: int
) -> tuple[int, list[str]]:
    """Predict everything again, and tell; how much is wrong, and what was not checked."""
    from qpatchbench.errors import ArtifactError, QPatchBenchError
    from qpatchbench.evaluation.repeatability import tolerance
    from qpatchbench.runs.run import Run
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.execution.rechecking import check_findings
    from qpatchbench.suite.execution.recrafting import recrafted
    from qpatchbench.suite.execution.relabelling import label_findings, manifest_findings
    from qpatchbench.suite.execution.replay import cell_findings, rebuilt, repredictions
    from qpatchbench.suite.execution.strangers import Unavailable

    try:
        run = Run(folder)
        again = rebuilt(folder, run.manifest, cache, data, device_named(device), decode=decode, run_code=run_code)
    except (ArtifactError, Unavailable) as error:
        click.echo(f"predictions: not made again: {error}")
        return 0, ["labels", "predictions"]
    finished = {cell.cell: cell for cell in run.cells if cell.status == "ok"}
    findings = list(cell_findings(again, {cell.cell for cell in run.cells}))
    findings += label_findings(again.plan, again.bench, run.cells)
    findings += manifest_findings(again.plan, again.bench, run.manifest)
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
    try:
        checks = list(check_findings(again, run.cells))
    except QPatchBenchError as error:
        checks = [f"checks cannot be made again: {error}"]
    _list(checks)
    findings += checks
    for patch in recrafted(again, recraft):
        click.echo(f"  {patch.label}: {patch.wrong or 'crafted anew, the same'}")
        findings += [patch.wrong] * bool(patch.wrong)
    claims = [f"predictions of {len(finished) - cells} cells"] * (cells < len(finished) and not findings)
    failed = len(run.cells) - len(finished)
    claims += [f"{failed} cells that are marked as failed"] * bool(failed)
    return len(findings), claims


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
