"""The job that times a training step of several defenses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.pipeline import DeployJob, TrainJob
from qpatchbench.suite.jobs.versions import JOB_VERSIONS
from qpatchbench.types import distinct

COST_STEPS = 14  # of every training: warm-up, timing and memory


@dataclass(frozen=True)
class CostJob(Job):
    """Time and memory of a training step of several defenses, measured in turn on one machine.

    Attributes:
        trainings: of one model and seed, each a different defense or group of bit-widths.
        reference: the one that the others are compared with.
        narrowed: the same trainings with fewer of their bit-widths, where that is asked for.
    """

    trainings: tuple[TrainJob, ...]
    reference: TrainJob
    narrowed: tuple[TrainJob, ...] = ()

    kind: ClassVar[str] = "cost"
    alone: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        """What is trained; the machine is in the result."""
        return {
            "job": ["cost", JOB_VERSIONS["cost"]],
            "trainings": [training.key for training in self.trainings],
            "reference": self.reference.key,
            **({"narrowed": [training.key for training in self.narrowed]} if self.narrowed else {}),
        }

    @property
    def label(self) -> str:
        """What it works on."""
        return f"of training {self.reference.model.title}, seed {self.reference.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """What the trainings start from; not the trainings themselves."""
        return distinct([earlier for training in self.trainings for earlier in training.upstream])

    @property
    def network(self) -> tuple[str, bool]:
        """Of the first training."""
        return self.trainings[0].network

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        measured = (*self.trainings, *self.narrowed)
        each = [training.defense.passes(training.bits) * training.settings.batch_size for training in measured]
        return COST_STEPS * sum(each)


def cost_jobs(networks: Sequence[DeployJob], reference: str, fewer_bits: bool = False) -> Iterator[CostJob]:
    """One job per model and seed. Of a defense that trains a network per bit-width, one network is measured.

    Args:
        networks: all networks of a suite.
        reference: title of the defense that the others are compared with.
        fewer_bits: whether networks with several bit-widths are measured with fewer of them too.
    """
    trainings = distinct([network.checkpoint for network in networks if network.checkpoint.trains])
    for model, seed in distinct([(training.model.title, training.seed) for training in trainings]):
        own: dict[str, TrainJob] = {}
        for training in trainings:
            if (training.model.title, training.seed) == (model, seed):
                known = own.get(training.defense.title)
                if known is None or len(training.bits) > len(known.bits):
                    own[training.defense.title] = training
        narrowed = [fewer for training in own.values() for fewer in _narrowed(training)] if fewer_bits else []
        if reference in own and len(own) + len(narrowed) > 1:
            yield CostJob(tuple(own.values()), own[reference], tuple(narrowed))


def _narrowed(training: TrainJob) -> Iterator[TrainJob]:
    """The training with its first bit-width, its first two, ..., 32 before all others."""
    ordered = sorted(training.bits, key=lambda bits: not bits.is_float)
    for count in range(1, len(ordered)):
        yield replace(training, bits=tuple(ordered[:count]))
