"""The work of a `DeployJob`: a network at one bit-width, vetted and measured on clean images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qpatchbench.evaluation.checks import artifacts
from qpatchbench.evaluation.checks.claimed_bits import audited, bits_are_as_claimed
from qpatchbench.evaluation.deployment.network_size import network_size
from qpatchbench.evaluation.measure import clean_predictions
from qpatchbench.models.deployed.deployed_network import DeployedNetwork
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.preprocessors.preprocessed import PreprocessedNetwork
from qpatchbench.quantizers.calibrated.float_operands import float_operations
from qpatchbench.quantizers.inspection.audit_layers import (
    LayerAudit,
    effective_bits,
    operations,
    unquantized_operations,
)
from qpatchbench.runs.records import Check
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.runtimes.second_network import runtime_facts, runtime_of
from qpatchbench.suite.store.store import Artifact
from qpatchbench.suite.work.workbench import Workbench
from qpatchbench.types import ImageSet

CHECKED_IMAGES = 64  # images on which a network is vetted
AUDITED_IMAGES = 8  # images on which distinct activation levels are counted
UNTOLD = "a file of this kind does not tell with which bits it multiplies"


def deployed(bench: Workbench, job: DeployJob) -> Artifact:
    """Predictions on the clean evaluation images, and what the checks found."""
    network = bench.answering(job, "clean")
    images = bench.evaluation_images(job.checkpoint.model)
    predictions = clean_predictions(network, images, bench.suite.evaluation.batch_size)
    correct = int((predictions == images.labels.cpu()).sum())
    found: list[Check] = []
    facts: dict[str, Any] = {"n_images": len(images), "n_clean_correct": correct}
    if bench.suite.evaluation.checks != "off":
        sample = to_float(images.pixels[:CHECKED_IMAGES])
        classes = bench.suite.dataset.num_classes
        found += artifacts.network_is_sound(network, sample)
        found.append(artifacts.accuracy_is_above_chance(correct, len(images), classes))
        found.append(bench.parts_are_disjoint(job.checkpoint.model))
        # What is deployed at the row's bit-width stands behind the preprocessor. A float network claims no width.
        bare = bench.network(job.bare)
        layers = () if job.bits.is_float else _layers(bare, sample[:AUDITED_IMAGES])
        if layers:
            claimed = [job.bits, *(partner.bits for partner in job.partners)]
            found.append(bits_are_as_claimed(layers, claimed))
        elif layers is None:
            found.append(Check(id="V15", verdict="not-run", message=f"{job.bits} bits are claimed: {UNTOLD}"))
        facts["audit"] = _audit_facts(bare, layers or (), sample)
    arrays = {"predictions": predictions.numpy()}
    runtime = runtime_of(bench, job)
    if runtime.network is not None:
        second = clean_predictions(runtime.network, images, bench.suite.evaluation.batch_size)
        arrays["runtime"] = second.numpy()
        facts["runtime"] = runtime_facts(bench, job, runtime.network, to_float(images.pixels[:CHECKED_IMAGES]))
    elif runtime.reason:
        facts["runtime"] = {"reason": runtime.reason}
    certified = _certified(bench, job, images)
    if certified is not None:
        arrays["certified"] = certified
    facts["size"] = network_size(bench.network(job.bare), to_float(images.pixels[:1]), facts.get("runtime", {}))
    facts["checks"] = [check.model_dump() for check in artifacts.merged(found)]
    return Artifact(arrays, facts)


def _layers(network: torch.nn.Module, images: torch.Tensor) -> tuple[LayerAudit, ...] | None:
    """What multiplies by weights, as hooks find it in a module or as a file states it; None where it tells nothing."""
    if not isinstance(network, DeployedNetwork):
        return operations(network, images)
    stated = network.stated_layers(images)
    return None if stated is None else tuple(map(audited, stated))


def _certified(bench: Workbench, job: DeployJob, images: ImageSet) -> np.ndarray[Any, Any] | None:
    """Which evaluation images the preprocessor certifies, (N,) bool; None where it certifies nothing."""
    network, size = bench.network(job), bench.suite.evaluation.batch_size
    if not isinstance(network, PreprocessedNetwork):
        return None
    parts = []
    for first in range(0, len(images), size):
        part = images[first : first + size]
        parts.append(network.certified(to_float(part.pixels), part.labels))
    known = [part.cpu() for part in parts if part is not None]
    return torch.cat(known).numpy() if known else None


def _audit_facts(network: torch.nn.Module, layers: Sequence[LayerAudit], sample: torch.Tensor) -> dict[str, Any]:
    """What the network really computes with: counted levels, mean widths, and layers left in float."""
    if not any(layer.declares for layer in layers):
        return {}
    deployed_already = isinstance(network, DeployedNetwork)
    return {
        "most_weight_levels": max((layer.weight_levels or 0 for layer in layers), default=0),
        "most_activation_levels": max((layer.activation_levels or 0 for layer in layers), default=0),
        "effective_bits": effective_bits(layers)._asdict(),
        "float_layers": [
            *(layer.name for layer in layers if deployed_already and not layer.declares),
            *unquantized_operations(network),
            *(layer.name for layer in layers if not layer.is_layer),
        ],
        "float_operations": [] if deployed_already else list(float_operations(network, sample)),
    }
