"""The network that a runtime makes of a deployed one, to answer a second time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from qpatchbench.errors import QPatchBenchError
from qpatchbench.evaluation.deployment.layer_differences import layer_differences
from qpatchbench.evaluation.deployment.parity import latency
from qpatchbench.models.deployed.written_network import written_network
from qpatchbench.preprocessors.preprocessed import PreprocessedNetwork, preprocessed
from qpatchbench.quantizers.onnx.qdq_model import write_onnx
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.jobs.versions import WRITER
from qpatchbench.suite.store.store import Artifact, key_of
from qpatchbench.suite.work.workbench import NETWORKS_IN_MEMORY, Workbench

KIND = "onnx"
LOOKED_AT = 8  # images on which codes are compared


class Runtime(NamedTuple):
    """What answers a second time, or why nothing does.

    Attributes:
        network: images -> logits, behind the preprocessor of the job; None: nothing.
        reason: why not.
    """

    network: torch.nn.Module | None
    reason: str = ""


def runtime_of(bench: Workbench, job: DeployJob) -> Runtime:
    """The job's network in the runtime that the suite asks for."""
    if bench.suite.deployment is None or job.checkpoint.model.ready is not None:
        return Runtime(None)
    if job.partners:
        return Runtime(None, "several networks answer together, and a model is written of one")
    key = job.network_key
    if key not in bench.runtimes:
        try:
            model, _ = _written(bench, job.bare)
            network: torch.nn.Module = written_network(model, bench.suite.dataset.side, job.label)
        except QPatchBenchError as error:  # no model can be written, or the runtime refuses it
            return Runtime(None, str(error))
        simulated = bench.network(job)
        if isinstance(simulated, PreprocessedNetwork) and job.preprocessor is not None:
            network = preprocessed(network, job.preprocessor, bench.preprocessor_state(job.preprocessor, job))
        bench.runtimes[key] = network
        if len(bench.runtimes) > NETWORKS_IN_MEMORY:
            bench.runtimes.popitem(last=False)
    return Runtime(bench.runtimes[key])


def runtime_facts(bench: Workbench, job: DeployJob, network: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Bytes, latency, and the layers whose codes differ beyond rounding.

    Args:
        bench: has the model.
        job: whose network it is.
        network: in the runtime.
        images: (N, 3, H, W) in [0, 1].
    """
    model, quantizers = _written(bench, job.bare)
    few = images[:LOOKED_AT].cpu()
    layers = layer_differences(bench.network(job.bare).cpu(), model, quantizers, few, job.label)
    bench.network(job.bare).to(bench.device)
    return {
        "bytes": len(model),
        "latency_ms": latency(network, few[:1]),
        "beyond_rounding": [layer._asdict() for layer in layers if layer.exceeds],
    }


def _written(bench: Workbench, job: DeployJob) -> tuple[bytes, dict[str, str]]:
    """The model of a bare network, and the layers of its quantizers; written once and kept in the store."""
    key = key_of({"network": job.network_key, "writer": WRITER})
    if not bench.store.has(KIND, key):
        written = write_onnx(bench.network(job), bench.suite.dataset.side)
        content = np.frombuffer(written.proto.SerializeToString(), np.uint8)
        bench.store.write(KIND, key, Artifact({"model": content}, {"quantizers": [*written.quantizers.items()]}))
    artifact = bench.store.read(KIND, key)
    return artifact.arrays["model"].tobytes(), dict(artifact.facts["quantizers"])
