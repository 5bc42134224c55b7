"""`qpatchbench export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qpatchbench.cli.options import DATA_DIR, cache_dir
from qpatchbench.cli.options import data_dir as chosen_data_dir
from qpatchbench.errors import QPatchBenchError, suggestion

if TYPE_CHECKING:
    from qpatchbench.quantizers.base import Quantizer
    from qpatchbench.suite.jobs.pipeline import DeployJob
    from qpatchbench.suite.verification.rebuilding import Rebuilt
    from qpatchbench.types import Bits

LOOKED_AT = 8  # images on which codes are compared


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.argument("checkpoint")
@click.argument("quantizer")
@click.argument("bits")
@click.option("--to", "form", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="Format.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File [default: named by the network].")
@click.option(
    "--images", type=click.IntRange(min=0), default=1000, show_default=True, help="Compare predictions on so many."
)
@DATA_DIR
def export_network(
    run: Path,
    checkpoint: str,
    quantizer: str,
    bits: str,
    form: str,
    output: Path | None,
    images: int,
    data_dir: Path | None,
) -> int:
    """Write a network of RUN as an ONNX model, and compare it with the simulation.

    CHECKPOINT is a key of the manifest, or its label, such as "resnet20 none"; QUANTIZER is one of the run's, or fp or
    ptq at its defaults; BITS are at most 8, or 32. Weights become integers, per channel, in 4 bits where they fit;
    activations are quantized per tensor (QDQ form). Then onnxruntime answers the evaluation images too. Exit code 1:
    it changes more than 0.5 % of the predictions; the layers whose codes differ beyond rounding are named.
    """
    from qpatchbench.evaluation.deployment.layer_differences import layer_differences
    from qpatchbench.evaluation.deployment.parity import latency, parity
    from qpatchbench.evaluation.repeatability import FLIPS
    from qpatchbench.models.deployed.written_network import written_network
    from qpatchbench.ops.patches.pasting import to_float
    from qpatchbench.quantizers.onnx.qdq_model import write_onnx
    from qpatchbench.runs.files import write_atomically

    rebuilt = _rebuilt(run, chosen_data_dir(data_dir))
    job = _network(rebuilt, checkpoint, quantizer, bits)
    network, side = rebuilt.bench.network(job), rebuilt.bench.suite.dataset.side
    written = write_onnx(network, side)
    model = written.proto.SerializeToString()
    path = output or Path(f"{job.checkpoint.model.title.replace('/', '-')}-{job.quantizer.mode}-{job.bits}.{form}")
    write_atomically(path, model)
    click.echo(f"{path}: {job.label}, {len(model):,} bytes, {len(written.quantizers)} quantized inputs")
    if not images:
        return 0
    shown = to_float(rebuilt.bench.evaluation_images(job.checkpoint.model).pixels[:images].cpu())
    runtime = written_network(model, side, str(path))
    found = parity(network, runtime, shown, rebuilt.bench.suite.evaluation.batch_size)
    click.echo(
        f"onnxruntime agrees on {found.agreeing} of {found.images} predictions ({100 * found.share:.2f} %); logits "
        f"differ by up to {100 * found.largest:.2g} % of the largest; {latency(runtime, shown[:1]):.2f} ms an image"
    )
    layers = layer_differences(network, model, written.quantizers, shown[:LOOKED_AT], str(path))
    beyond = [layer for layer in layers if layer.exceeds]
    for layer in beyond:
        click.echo(
            f"  {layer.layer}: {100 * layer.differ / layer.codes:.2f} % of its input codes differ, "
            f"{100 * layer.beyond / layer.codes:.2f} % by more than one, up to {layer.largest}"
        )
    if layers and not beyond:
        most = max(layers, key=lambda layer: layer.differ / layer.codes)
        share = 100 * most.differ / most.codes
        click.echo(f"  no layer differs beyond rounding; most codes differ, {share:.2f} %, at {most.layer}")
    return int(found.share < 1 - FLIPS)


def _rebuilt(run: Path, data: Path) -> Rebuilt:
    from qpatchbench.runs.run import Run
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.verification.rebuilding import rebuilt

    return rebuilt(run, Run(run).manifest, cache_dir(), data, device_named("cpu"))


def _network(rebuilt: Rebuilt, checkpoint: str, quantizer: str, bits: str) -> DeployJob:
    """The job that deploys this checkpoint so, whether or not the run did.

    Raises:
        QPatchBenchError: there is none; names what there is.
    """
    import dataclasses

    from qpatchbench.types import Bits

    try:
        wanted = Bits.parse(bits)
    except ValueError as error:
        raise QPatchBenchError(str(error)) from None
    jobs: Mapping[str, DeployJob] = {
        job.target.checkpoint.key: job.target.bare for job in rebuilt.cells if job.target.checkpoint.model.ready is None
    }
    found = [job for key, job in jobs.items() if _named(job, key, checkpoint)]
    if len(found) != 1:
        labels = [f"{job.checkpoint.short_key} ({job.checkpoint.label})" for job in found or jobs.values()]
        how_many = f"{len(found)} checkpoints" if found else "no checkpoint"
        raise QPatchBenchError(f"{how_many} {checkpoint!r} in this run. Available: {', '.join(labels)}.")
    return dataclasses.replace(found[0], quantizer=_quantizer(rebuilt, quantizer, wanted), bits=wanted, partners=())


def _named(job: DeployJob, key: str, text: str) -> bool:
    label = job.checkpoint.label
    return key.startswith(text) or label == text or label.startswith((f"{text}, seed", f"{text} "))


def _quantizer(rebuilt: Rebuilt, name: str, bits: Bits) -> Quantizer:
    from qpatchbench.component import create
    from qpatchbench.registry import QUANTIZERS
    from qpatchbench.suite.file.consistency import names_of

    known: Any = next((each for each in rebuilt.bench.suite.quantizers if name in names_of(each)), None)
    if known is not None:
        found: Quantizer = known.model_copy(update={"bits": (bits,)})
        return found
    if name not in ("fp", "ptq"):
        modes = [each.mode for each in rebuilt.bench.suite.quantizers]
        raise QPatchBenchError(f"no quantizer {name!r} in this run.{suggestion(name, [*modes, 'fp', 'ptq'])}")
    made: Quantizer = create(QUANTIZERS, {"name": name, "bits": (bits,)})
    return made


COMMANDS = {"export": export_network}
