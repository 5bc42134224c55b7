"""`qpatchbench verify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qpatchbench.cli.options import DATA_DIR, LIMIT, SCALE, SEEDS, SET, cache_dir, with_shorthands
from qpatchbench.cli.options import data_dir as chosen_data_dir
from qpatchbench.labels import shown

if TYPE_CHECKING:
    import torch

    from qpatchbench.runs.run import Run
    from qpatchbench.suite.file.schema import Suite
    from qpatchbench.suite.verification.rebuilding import Rebuilt
    from qpatchbench.suite.verification.replay import Repredicted

MOST = 40  # findings of one kind that are printed


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_OR_ENTRY")
@click.option(
    "--suite",
    "suite_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The committed suite that the run has to have followed [default: the manifest's own copy].",
)
@SCALE
@SET
@LIMIT
@SEEDS
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
    suite_file: Path | None,
    scale: str | None,
    overrides: tuple[str, ...],
    limit: int | None,
    seeds: str | None,
    cache: Path | None,
    data_dir: Path | None,
    device: str,
    decode: bool,
    run_code: bool,
    numbers_only: bool,
    recraft: int,
) -> int:
    """Recompute a run folder, or a leaderboard entry, from its bytes, and name what is not as it should be.

    Numbers: all counts are computed again from the outcomes of single images, every table, picture and page is written
    again from them, and every file is compared with its hash. This needs neither weights nor images.

    Labels: every label of cells, networks, checkpoints, patches and jobs is compared with the plan of the suite: of
    FILE, with the options that it was run with, or of the manifest's own copy, which is a claim.

    Predictions: where checkpoints are in the cache and the images are found, every stored patch is pasted again, every
    prediction compared, and every check made again. Nothing is trained, and nothing crafted but for --recraft. On the
    same device with the same torch nothing may differ; elsewhere nearly tied classes may change sides, within a
    tolerance that is printed. A manifest alone does not decide what is downloaded, run, read outside of the data
    folder, or decoded for the first time: the last is allowed by --decode, source files of networks by --run-code.

    What nothing can compute again (times, devices, versions, revision, what happened while a patch was crafted) is
    compared with this machine and with what its cache remembers. Labels of a defense or an attack that has changed
    since are held against the version that the manifest names, which is told.

    Exit code 0: everything was checked and holds; 1: something does not, and is named; 2: no run folder; 3: nothing is
    wrong, but a part of the results was taken at its word: "claimed, not checked" says which.
    """
    from qpatchbench.component import versions_of
    from qpatchbench.report.entries.recount import manifest_of, number_findings
    from qpatchbench.runs.integrity import Unchecked
    from qpatchbench.suite.file.load import load_suite
    from qpatchbench.suite.store.provenance import git_state
    from qpatchbench.suite.verification.earlier_versions import version_claims

    asked = None if suite_file is None else load_suite(suite_file, with_shorthands(overrides, limit, seeds), scale)
    findings = list(number_findings(folder, same_code=manifest_of(folder).get("git") == git_state()))
    wrong = _wrong(findings)
    click.echo(f"numbers: {_found(len(wrong)) if wrong else 'every count, rate and hash is as it should be'}")
    _list(wrong)
    places = (cache or cache_dir(), chosen_data_dir(data_dir))
    earlier = _earlier(folder, asked)
    findings += version_claims(earlier)
    with versions_of(earlier):
        findings += _labels_and_predictions(
            folder, asked, str(suite_file), *places, device, decode, run_code, numbers_only, recraft
        )
    wrong = _wrong(findings)
    claims = [text for text in findings if isinstance(text, Unchecked)]
    if claims:
        click.echo("claimed, not checked:")
        _list(list(dict.fromkeys(claims)))
    return 1 if wrong else 3 if claims else 0


def _earlier(folder: Path, asked: Suite | None) -> Mapping[str, int]:
    """Versions of defenses and attacks that the run was made with and that are not those of today."""
    from qpatchbench.report.entries.recount import manifest_of
    from qpatchbench.suite.verification.asked import own_suite
    from qpatchbench.suite.verification.earlier_versions import earlier_versions
    from qpatchbench.suite.verification.strangers import Unavailable

    manifest = manifest_of(folder)
    try:
        return earlier_versions(asked or own_suite(manifest), manifest)
    except Unavailable:  # told with the labels
        return {}


def _labels_and_predictions(
    folder: Path,
    asked: Suite | None,
    name: str,
    cache: Path,
    data: Path,
    device: str,
    decode: bool,
    run_code: bool,
    numbers_only: bool,
    recraft: int,
) -> list[str]:
    """Plan the suite again, predict everything again, and tell; what is wrong and what was not checked."""
    from qpatchbench.errors import ArtifactError, QPatchBenchError
    from qpatchbench.runs.integrity import Unchecked, left_out
    from qpatchbench.runs.layout import PATCHES
    from qpatchbench.runs.run import Run
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.verification.rebuilding import rebuilt
    from qpatchbench.suite.verification.strangers import Unavailable

    try:
        run, where = Run(folder), device_named(device)
    except ArtifactError as error:
        click.echo(f"labels: not compared: {error}")
        return [Unchecked("labels"), Unchecked("predictions")]
    why, again = "as asked for", None
    if any(name.startswith(PATCHES) for name in left_out(run.manifest)):
        why = "its patches were left out"
    elif not numbers_only:
        try:
            again = rebuilt(folder, run.manifest, cache, data, where, suite=asked, decode=decode, run_code=run_code)
        except (ArtifactError, Unavailable) as error:
            why = str(error)
    findings = _labels(run, asked, name, cache, where, again)
    if again is None:
        click.echo(f"predictions: not made again{', ' if why == 'as asked for' else ': '}{why}")
        return [*findings, Unchecked("predictions, and the checks of networks and patches")]
    try:
        return [*findings, *_predictions(run, again, recraft)]
    except QPatchBenchError as error:
        click.echo(f"predictions: cannot be made again: {error}")
        return [*findings, f"predictions cannot be made again: {error}"]


def _labels(
    run: Run, asked: Suite | None, name: str, cache: Path, device: torch.device, again: Rebuilt | None
) -> list[str]:
    """What is said of jobs, and what the suite says."""
    from qpatchbench.runs.integrity import Unchecked
    from qpatchbench.suite.store.store import Store
    from qpatchbench.suite.verification.asked import (
        OWN_COPY,
        hash_findings,
        named_plan,
        own_suite,
        suite_findings,
        typed_findings,
    )
    from qpatchbench.suite.verification.claimed_origin import job_claims, origin_claims
    from qpatchbench.suite.verification.examples import example_findings
    from qpatchbench.suite.verification.relabelling import image_facts, label_findings, manifest_findings
    from qpatchbench.suite.verification.replay import cell_findings
    from qpatchbench.suite.verification.strangers import Unavailable

    findings: list[str] = [OWN_COPY] if asked is None else list(suite_findings(asked, name, run.manifest))
    findings += hash_findings(run.manifest)
    findings += origin_claims(run.manifest, device)
    bench = None if again is None else again.bench
    images = None if bench is None else {each.title: bench.evaluation_images(each) for each in bench.suite.models}
    findings += example_findings(run, images)
    try:
        plan = again.plan if again is not None else named_plan(asked or own_suite(run.manifest), run.manifest, cache)
    except Unavailable as error:
        click.echo(f"labels: not compared: {error}")
        _list(_wrong(findings))
        return [*findings, Unchecked("labels")]
    facts = {} if again is None else image_facts(again.bench)
    dataset = str(facts.get("dataset_note", run.manifest.get("dataset_note")))
    findings += typed_findings(plan.suite, run.manifest)
    findings += cell_findings(plan, {cell.cell for cell in run.cells})
    findings += label_findings(plan, dataset, run.cells)
    findings += manifest_findings(plan, run.manifest, facts)
    findings += job_claims(run.manifest, plan, Store(cache))
    failed = sum(cell.status != "ok" for cell in run.cells)
    findings += [Unchecked(f"{failed} cells that are marked as failed")] * bool(failed)
    wrong = _wrong(findings)
    click.echo(f"labels: {_found(len(wrong)) if wrong else 'every one is that of the suite'}")
    _list(wrong)
    return findings


def _predictions(run: Run, again: Rebuilt, recraft: int) -> Iterator[str]:
    """Predict everything again, and tell; what is wrong and what was not checked."""
    from qpatchbench.evaluation.repeatability import tolerance
    from qpatchbench.runs.integrity import Unchecked
    from qpatchbench.suite.verification.rechecking import check_findings, network_findings, size_findings
    from qpatchbench.suite.verification.recrafting import control_findings, loss_findings, recrafted
    from qpatchbench.suite.verification.remembering import Remembered
    from qpatchbench.suite.verification.replay import repredictions

    finished = {cell.cell: cell for cell in run.cells if cell.status == "ok"}
    networks = []
    for network in repredictions(again, lambda key: run.stored(finished[key]), finished):
        click.echo(f"  {_summary(network)}")
        _list([*network.findings, *(f"accepted: {text}" for text in network.notes if network.predictions)])
        yield from network.findings
        networks.append(network)
    made = [network for network in networks if network.predictions]
    names = ("cells", "predictions", "differ")
    cells, predictions, differ = (sum(getattr(each, name) for each in made) for name in names)
    wrong = sum(len(network.findings) for network in networks)
    click.echo(
        f"predictions: {cells} of {len(finished)} cells made again on {len(made)} of {len(networks)} networks, "
        f"{differ} of {predictions} predictions differ{f', {_found(wrong)}' if wrong else ''}"
    )
    for exact in sorted({network.exact for network in made}, reverse=True):
        click.echo(f"tolerance: {tolerance(exact=exact)}")
    if cells < len(finished):
        yield Unchecked(f"predictions of {len(finished) - cells} cells")
    remembered = Remembered(again)
    checks = [
        *check_findings(again, run.cells),
        *network_findings(again),
        *size_findings(again, run.cells),
        *control_findings(again),
        *loss_findings(again),
        *remembered.weight_findings(),
        *remembered.patch_findings(run.cells),
        *remembered.analysis_findings(),
    ]
    _list(_wrong(checks))
    yield from checks
    for patch in recrafted(again, recraft):
        click.echo(f"  {patch.label}: {patch.wrong or 'crafted anew, the same'}")
        if patch.wrong:
            yield f"{patch.label}: {patch.wrong}"


def _wrong(findings: Sequence[str]) -> list[str]:
    """Those that are not only claims."""
    from qpatchbench.runs.integrity import Unchecked

    return [text for text in findings if not isinstance(text, Unchecked)]


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
