"""Jobs beside the cells: what training costs, and how similar the bit-widths of a backbone are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from qpatchbench.suite.jobs import CraftJob, DeployJob, Job, Sizes, TrainJob
from qpatchbench.suite.store import key_of
from qpatchbench.types import distinct

COST_STEPS = 14  # of every training: warm-up, timing and memory

# Bumped when the runner itself changes numbers.
ANALYSIS_VERSIONS = {"cost": 2, "similarity": 1, "maps": 1}


@dataclass(frozen=True)
class CostJob:
    """Time and memory of a training step of several defenses, measured in turn on one machine.

    Attributes:
        trainings: of one model and seed, each a different defense or group of bit-widths.
        reference: the one that the others are compared with.
        narrowed: the same trainings with fewer of their bit-widths, where that is asked for.
    """

    trainings: tuple[TrainJob, ...]
    reference: TrainJob
    narrowed: tuple[TrainJob, ...] = ()

    kind: Literal["cost"] = "cost"

    @cached_property
    def key(self) -> str:
        """Hash of what is trained; the machine is in the result."""
        return key_of(
            {
                "job": ["cost", ANALYSIS_VERSIONS["cost"]],
                "trainings": [training.key for training in self.trainings],
                "reference": self.reference.key,
                **({"narrowed": [training.key for training in self.narrowed]} if self.narrowed else {}),
            }
        )

    @property
    def label(self) -> str:
        """For people."""
        return f"costs of training {self.reference.model.title}, seed {self.reference.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """What the trainings start from; not the trainings themselves."""
        return distinct([earlier for training in self.trainings for earlier in training.upstream])

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        measured = (*self.trainings, *self.narrowed)
        each = [training.defense.passes(training.bits) * training.settings.batch_size for training in measured]
        return COST_STEPS * sum(each)


@dataclass(frozen=True)
class SimilarityJob:
    """Features and input gradients of one backbone, compared between its bit-widths.

    Attributes:
        networks: the backbone at two bit-widths or more.
        patch: a universal patch, under which they are compared too; None: on clean images only.
        images: how many evaluation images.
    """

    networks: tuple[DeployJob, ...]
    patch: CraftJob | None
    images: int
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: Literal["similarity"] = "similarity"

    @cached_property
    def key(self) -> str:
        """Hash of networks, patch and images."""
        return key_of(
            {
                "job": ["similarity", ANALYSIS_VERSIONS["similarity"]],
                "networks": [network.network_key for network in self.networks],
                "patch": self.patch.key if self.patch else None,
                "images": [self.images, self.facts["evaluation"], self.facts["placement"]],
            }
        )

    @property
    def label(self) -> str:
        """For people."""
        widths = " ".join(str(network.bits) for network in self.networks)
        checkpoint = self.networks[0].checkpoint
        return f"similarity of {checkpoint.model.title} {checkpoint.defense.title} [{widths}], seed {checkpoint.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (*self.networks, *((self.patch,) if self.patch else ()))

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        return 3.0 * min(self.images, sizes.evaluation) * len(self.networks) * (2 if self.patch else 1)


def cost_jobs(networks: Sequence[DeployJob], reference: str, widths: bool = False) -> Iterator[CostJob]:
    """One job per model and seed. Of a defense that trains a network per bit-width, one network is measured.

    Args:
        networks: all networks of a suite.
        reference: title of the defense that the others are compared with.
        widths: whether networks with several bit-widths are measured with fewer of them too.
    """
    trainings = distinct([network.checkpoint for network in networks if network.checkpoint.trains])
    for model, seed in distinct([(training.model.title, training.seed) for training in trainings]):
        own: dict[str, TrainJob] = {}
        for training in trainings:
            if (training.model.title, training.seed) == (model, seed):
                known = own.get(training.defense.title)
                if known is None or len(training.bits) > len(known.bits):
                    own[training.defense.title] = training
        narrowed = [fewer for training in own.values() for fewer in _narrowed(training)] if widths else []
        if reference in own and len(own) + len(narrowed) > 1:
            yield CostJob(tuple(own.values()), own[reference], tuple(narrowed))


def _narrowed(training: TrainJob) -> Iterator[TrainJob]:
    """The training with its first bit-width, its first two, ..., 32 before all others."""
    ordered = sorted(training.bits, key=lambda bits: not bits.is_float)
    for count in range(1, len(ordered)):
        yield replace(training, bits=tuple(ordered[:count]))


def similarity_jobs(
    networks: Sequence[DeployJob], patches: Mapping[tuple[str, int], CraftJob], images: int
) -> Iterator[SimilarityJob]:
    """One job per model, defense, seed and quantizer: its bit-widths, and 32 where there is such a network.

    Networks that draw at random, and ensembles, have no features of their own.

    Args:
        networks: all networks of a suite.
        patches: (model title, seed) -> a universal patch.
        images: how many evaluation images.
    """
    for own in backbones(networks):
        if len(own) > 1:
            patch = patches.get((own[0].checkpoint.model.title, own[0].checkpoint.seed))
            yield SimilarityJob(own, patch, images, own[0].facts)


def backbones(networks: Sequence[DeployJob]) -> Iterator[tuple[DeployJob, ...]]:
    """The bit-widths of every model, defense, seed and quantizer, and 32 where there is such a network.

    Networks that draw at random, and ensembles, are left out. At least one of each group is quantized.
    """
    alone = [network for network in networks if not network.partners and not network.quantizer.randomized]
    for network in distinct([network for network in alone if not network.bits.is_float]):
        own = [
            other
            for other in alone
            if _owner(other) == _owner(network) and (other.bits.is_float or other.quantizer == network.quantizer)
        ]
        if own.index(network) == min(own.index(other) for other in own if not other.bits.is_float):
            yield tuple(own)


def _owner(network: DeployJob) -> tuple[str, str, int]:
    return network.checkpoint.model.title, network.checkpoint.defense.title, network.checkpoint.seed
