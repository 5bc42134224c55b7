"""Memory that a job takes at its peak: what its process holds anyway, networks, images, and activations at once.

Activations are those that dry passes count (`footprints`), times the images and the graphs that the job's loop keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qpatchbench.ops.crafting.loops import images_at_once
from qpatchbench.suite.jobs.audit import AUDITED_IMAGES, AuditJob
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.cost import CostJob
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.maps import MapsJob
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.jobs.similarity import SimilarityJob
from qpatchbench.suite.needs.footprints import Footprint, Footprints

PROCESS = 500_000_000  # of its own that a process holds which has loaded torch and all that jobs use
NETWORKS = 8  # that a workbench keeps
_ANALYSED = 64  # images at once where networks are compared
_END = 1.0  # of a curriculum
_COPIES = 2  # of images: those read, and the parts that they are split into


@dataclass(frozen=True)
class Surroundings:
    """What decides the memory of jobs beside themselves.

    Attributes:
        footprints: of the suite's networks.
        sizes: number of images in each part.
        side: of an image, pixels.
        batch_size: images of an evaluation at once.
        networks: different networks of the plan.
        base: bytes that a worker holds before its first job.
    """

    footprints: Footprints
    sizes: Sizes
    side: int
    batch_size: int
    networks: int
    base: int

    @property
    def kept_images(self) -> float:
        """Bytes of the images that a worker keeps."""
        sizes = self.sizes
        return _COPIES * 3.0 * self.side**2 * (sizes.train + sizes.calibration + sizes.craft + sizes.evaluation)

    def floats(self, images: float) -> float:
        """Bytes of so many images as float32."""
        return 12.0 * self.side**2 * images


def peak_bytes(job: Job, around: Surroundings) -> float | None:
    """The most that a worker holds while it does a job; None where it is not known.

    What a preprocessor holds besides the network behind it is not counted.
    """
    found = _activations(job, around)
    if found is None:
        return None
    title, quantized = job.network
    network = around.footprints.of(title, quantized) if title else None
    kept = 0 if network is None else network.weights * min(NETWORKS, around.networks)
    return around.base + around.kept_images + kept + found


def _activations(job: Job, around: Surroundings) -> float | None:
    match job:
        case TrainJob():
            return _learning(job, around) if job.trains else _of(job, around, lambda network: 2.0 * network.weights)
        case DeployJob():
            return _answers(job, around, job)
        case CraftJob():
            return _crafting(job, around)
        case EvaluateJob():
            return _answers(job, around, job.target)
        case AuditJob():
            found = [_crafting(variant.patch, around, AUDITED_IMAGES) for variant in job.variants]
            return max((each for each in found if each is not None), default=None)
        case CostJob():
            learnt = [_learning(training, around) for training in (*job.trainings, *job.narrowed)]
            known = [each for each in learnt if each is not None]
            return max(known) + sum(_held(training, around) for training in job.trainings) if known else None
        case SimilarityJob() | MapsJob():
            many = min(job.images, around.sizes.evaluation)
            contents = 2 + len(job.networks)
            return _of(job, around, lambda network: network.differentiated(_ANALYSED) + contents * around.floats(many))
    return None


def _learning(job: TrainJob, around: Surroundings) -> float | None:
    """Weights, gradients, momentum and a copy for the snapshot; the graphs that a step keeps."""
    network = around.footprints.of(*job.network)
    if network is None:
        return None
    batch = min(job.settings.batch_size, around.sizes.train)
    graphs = job.defense.graphs_at_once(job.defense.active_bits(_END, job.bits))
    images = around.floats(2 * batch + around.sizes.calibration)
    return _held(job, around) + (graphs - 1) * network.graph.at(batch) + network.differentiated(batch) + images


def _held(job: TrainJob, around: Surroundings) -> float:
    state = around.footprints.state(job)
    return 0.0 if state is None else 2.0 * (state.file + state.learned)


def _crafting(job: CraftJob, around: Surroundings, images: int | None = None) -> float | None:
    """The batch that an attack shows to its sources at once, whose graphs live together."""
    if not job.sources:
        return 0.0
    network = around.footprints.of(*job.network)
    if network is None:
        return None
    if job.attack.kind == "per_image":
        batch = min(images_at_once(around.side), images or around.sizes.evaluation)
    else:
        batch = getattr(job.attack, "batch_size", 1) * len(job.goals)
    pasted = around.floats(3 * batch)
    if job.attack.access != "gradient":
        return network.answer.at(batch) + pasted
    attacked = sum(map(_graphs, job.sources)) * network.differentiated(batch) + pasted
    return max(attacked, *(_deploying(network, source, around) for source in job.sources))


def _graphs(source: DeployJob) -> int:
    """Of one batch: those of all networks that answer together, to all images that one is shown as."""
    answers = source.quantizer.answers_at_once(source.bits, source.checkpoint.bits)
    shown = source.preprocessor.answers_at_once if source.preprocessor else 1
    return (1 + len(source.partners)) * answers * shown


def _deploying(network: Footprint, target: DeployJob, around: Surroundings) -> float:
    """What calibration holds, of a network that is not kept from an earlier job."""
    at_once = 0 if target.bits.is_float else target.quantizer.calibrated_at_once(around.sizes.calibration)
    return network.answer.at(at_once) + around.floats(at_once) if at_once else 0.0


def _answers(job: DeployJob | EvaluateJob, around: Surroundings, target: DeployJob) -> float | None:
    """Of the network, and of the runtime that answers a second time, whose memory the process keeps as well."""
    batch, times = min(around.batch_size, around.sizes.evaluation), 2 if "deployment" in job.facts else 1

    def held(network: Footprint) -> float:
        answered = times * network.answer.at(batch) + around.floats(2 * batch)
        return len(target.partners) * network.weights + max(answered, _deploying(network, target, around))

    return _of(job, around, held)


def _of(job: Job, around: Surroundings, count: Callable[[Footprint], float]) -> float | None:
    network = around.footprints.of(*job.network)
    return None if network is None else count(network)
