"""From a suite to its jobs: Train -> Deploy -> Craft -> Evaluate, each with a key.

A job's key is the hash of everything that can change its result (resolved fields, component versions, data, upstream
keys) and of nothing else, so a result that is already in the store is never computed again, whichever suite asked.
Nothing here reads data or weights, or imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.defenses.base import Defense
from qpatchbench.evaluation.records import Lineage
from qpatchbench.models.base import ModelSource
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.registry import ATTACKS, DEFENSES, QUANTIZERS
from qpatchbench.suite.coherence import names_of
from qpatchbench.suite.schema import Suite
from qpatchbench.suite.store import key_of
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits, Goal, distinct

# Bumped when the runner itself, rather than a component, changes numbers.
JOB_VERSIONS = {"train": 1, "deploy": 1, "craft": 1, "evaluate": 1}
CONTROLS = ("random", "grey")


@dataclass(frozen=True)
class DataKeys:
    """What identifies the four parts of a dataset; the planner uses placeholders where data was never read."""

    train: str
    calibration: str
    craft: str
    evaluation: str


@dataclass(frozen=True)
class TrainJob:
    """Learn one checkpoint."""

    model: ModelSource
    defense: Defense
    quantizer: Quantizer | None
    bits: tuple[Bits, ...]
    settings: TrainingSettings
    initial: TrainJob | None
    seed: int
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: Literal["checkpoint"] = "checkpoint"

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change the weights."""
        start = {
            "job": ["train", JOB_VERSIONS["train"]],
            "model": self.model.identity(),
            "weights": self.facts["weights"],
        }
        if not self.trains:
            return key_of(start)  # weights from a file: neither schedule nor seed nor images matter
        return key_of(
            {
                **start,
                "defense": self.defense.identity(),
                "quantizer": _fields_without_bits(self.quantizer) if self.quantizer else None,
                "bits": [str(bits) for bits in self.bits],
                "settings": self.settings.model_dump(mode="json"),
                "initial": self.initial.key if self.initial else None,
                "seed": self.seed,
                "train": self.facts["train"],
                "calibration": self.facts["calibration"] if self.quantizer else None,
            }
        )

    @property
    def label(self) -> str:
        """For people."""
        group = "" if len(self.bits) == 1 and self.bits[0] == FLOAT else f" [{' '.join(map(str, self.bits))}]"
        return f"train {self.model.title} {self.defense.title}{group}, seed {self.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.initial,) if self.initial else ()

    @property
    def trains(self) -> bool:
        """Whether anything is learned; weights from a file are only copied."""
        return self.model.weights == "train" or self.initial is not None

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        return 3.0 * self.settings.epochs * sizes.train * len(self.bits) if self.trains else 0.0


@dataclass(frozen=True)
class DeployJob:
    """Deploy a checkpoint at a bit-width, and predict the clean evaluation images."""

    checkpoint: TrainJob
    quantizer: Quantizer
    bits: Bits
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: Literal["network"] = "network"

    @cached_property
    def network_key(self) -> str:
        """Identifies the deployed network, whatever it is evaluated on."""
        quantized = not self.bits.is_float
        return key_of(
            {
                "job": ["network", JOB_VERSIONS["deploy"]],
                "checkpoint": self.checkpoint.key,
                "quantizer": _fields_without_bits(self.quantizer),
                "bits": str(self.bits),
                "calibration": self.facts["calibration"] if quantized and not self.quantizer.trained else None,
            }
        )

    @cached_property
    def key(self) -> str:
        """Identifies the network and the images it is measured on."""
        facts = {name: self.facts[name] for name in ("evaluation", "checked")}
        return key_of({"network": self.network_key, **facts})

    @property
    def label(self) -> str:
        """For people."""
        return (
            f"{self.checkpoint.model.title} {self.checkpoint.defense.title} "
            f"{self.quantizer.mode}@{self.bits}, seed {self.checkpoint.seed}"
        )

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.checkpoint,)

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image."""
        return sizes.calibration * (not self.quantizer.trained) + sizes.evaluation


@dataclass(frozen=True)
class CraftJob:
    """Craft the patches of one attack on one source network (None for controls)."""

    attack: Attack
    goals: tuple[Goal, ...]
    source: DeployJob | None
    seed: int
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: Literal["patch"] = "patch"

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change the patches."""
        per_image = self.attack.kind == "per_image"
        # A control looks at no image and no network; only the number of goals and its seed decide it.
        return key_of(
            {
                "job": ["craft", JOB_VERSIONS["craft"]],
                "attack": self.attack.identity(),
                "goals": [str(goal) for goal in self.goals],
                "source": self.source.network_key if self.source else None,
                "images": self.facts["evaluation" if per_image else "craft"] if self.source else None,
                "placement": self.facts["placement"] if per_image else None,
                "seed": self.seed,
                "checked": self.facts["checked"],
            }
        )

    @property
    def label(self) -> str:
        """For people."""
        where = f" on {self.source.label}" if self.source else f", seed {self.seed}"
        return f"craft {self.attack.title} {self.attack.size}x{self.attack.size}{where}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first: the source's measurement, which also vets the network."""
        return (self.source,) if self.source else ()

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        steps = float(getattr(self.attack, "steps", 0))
        batch = sizes.evaluation if self.attack.kind == "per_image" else getattr(self.attack, "batch_size", 1)
        return 3.0 * steps * batch * len(self.goals)


@dataclass(frozen=True)
class EvaluateJob:
    """Measure one patch on one target network."""

    patch: CraftJob
    target: DeployJob
    control: bool
    facts: dict[str, Any] = field(compare=False, repr=False)

    kind: Literal["cell"] = "cell"

    @cached_property
    def key(self) -> str:
        """Hash of patch, target, images and placements."""
        return key_of(
            {
                "job": ["evaluate", JOB_VERSIONS["evaluate"]],
                "patch": self.patch.key,
                "target": self.target.key,
                "placement": self.facts["placement"],
            }
        )

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.patch.label} -> {self.target.label}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.patch, self.target)

    @property
    def lineage(self) -> Lineage | Literal[""]:
        """How the weights of source and target are related."""
        source, target = self.patch.source, self.target
        if source is None:
            return ""
        if source.network_key == target.network_key:
            return "same-network"
        if source.checkpoint.key == target.checkpoint.key:
            return "shared-weights"
        return "fine-tuned" if _ancestor(source.checkpoint) == _ancestor(target.checkpoint) else "independent"

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image."""
        return float(sizes.evaluation * len(self.patch.goals))


Job: TypeAlias = TrainJob | DeployJob | CraftJob | EvaluateJob


@dataclass(frozen=True)
class Sizes:
    """Number of images in each part, for cost estimates; upper bounds where data was never read."""

    train: int
    calibration: int
    craft: int
    evaluation: int


def _fields_without_bits(quantizer: Quantizer) -> dict[str, Any]:
    """A quantizer's identity without the list of widths the suite deploys: one more width redoes nothing."""
    return {name: value for name, value in quantizer.identity().items() if name != "bits"}


def _ancestor(job: TrainJob) -> str:
    return job.initial.key if job.initial else job.key


@dataclass(frozen=True)
class Plan:
    """All jobs of a suite in an order in which each comes after what it needs."""

    suite: Suite
    jobs: tuple[Job, ...]

    @cached_property
    def key(self) -> str:
        """Hash of the jobs and of what the report shows of the suite."""
        return key_of({"jobs": [job.key for job in self.jobs], "suite": self.suite.resolved()})

    @property
    def cells(self) -> tuple[EvaluateJob, ...]:
        """The evaluations."""
        return tuple(job for job in self.jobs if isinstance(job, EvaluateJob))


def make_plan(suite: Suite, data: Mapping[str, DataKeys], weights: Mapping[str, str]) -> Plan:
    """Expand a suite into jobs.

    Args:
        suite: a coherent suite.
        data: model title -> what identifies the images, decoded as that model wants them.
        weights: model title -> hash of the weights it starts from ("" where the suite trains them).
    """
    planner = _Planner(suite, data, weights)
    found: dict[str, Job] = {}
    for cell in planner.cells():
        _add(cell, found)
    return Plan(suite, tuple(found.values()))


def _add(job: Job, found: dict[str, Job]) -> None:
    if job.key not in found:
        for earlier in job.upstream:
            _add(earlier, found)
        found[job.key] = job


class _Planner:
    def __init__(self, suite: Suite, data: Mapping[str, DataKeys], weights: Mapping[str, str]) -> None:
        self.suite, self.data, self.weights = suite, data, weights
        self.float_quantizer: Quantizer = create(QUANTIZERS, {"name": "fp", "bits": (FLOAT,)})

    def cells(self) -> Iterator[EvaluateJob]:
        """White-box and transfer cells of every target network, then its controls."""
        for seed in self.suite.seeds:
            for target in distinct([*self._targets(seed)]):
                facts = self._facts(target.checkpoint.model)
                sizes: dict[tuple[object, ...], CraftJob] = {}
                for attack in self.suite.attacks:
                    for source in self._sources(attack, target):
                        goals = attack.goals(self.suite.dataset.num_classes)
                        patch = CraftJob(attack, goals, source, seed, self._facts(source.checkpoint.model))
                        sizes[(attack.size, patch.goals)] = patch
                        yield EvaluateJob(patch, target, control=False, facts=facts)
                for (size, _), patch in sizes.items():
                    for name in CONTROLS:
                        control = create(ATTACKS, {"name": name, "size": size, "targets": patch.attack.targets})
                        crafted = CraftJob(control, patch.goals, None, seed, facts)
                        yield EvaluateJob(crafted, target, control=True, facts=facts)

    def _facts(self, model: ModelSource) -> dict[str, Any]:
        data = self.data[model.title]
        return {
            "calibration": data.calibration,
            "craft": data.craft,
            "evaluation": [data.evaluation, self.suite.limit],
            "placement": self.suite.evaluation.placement_seed,
            # Fast and full checks find the same of a single artifact; one made without checks has nothing to show.
            "checked": self.suite.evaluation.checks != "off",
        }

    def _targets(self, seed: int) -> Iterator[DeployJob]:
        for model in self.suite.models:
            for defense in self.suite.defenses:
                for quantizer in self.suite.quantizers:
                    for bits in quantizer.bits:
                        facts = {"model": model.title, "defense": defense.title, "quantizer": names_of(quantizer)}
                        if self.suite.keeps(**facts, target_bits=bits):
                            yield self._network(model, defense, quantizer, bits, seed)

    def _sources(self, attack: Attack, target: DeployJob) -> Iterator[DeployJob]:
        found = []
        for source in self.suite.transfer.sources:
            found += [target] if source == "same" else self._crafted_elsewhere(source, target)
        for network in distinct(found):
            if self.suite.keeps(
                model=target.checkpoint.model.title,
                defense=target.checkpoint.defense.title,
                quantizer=names_of(target.quantizer),
                target_bits=target.bits,
                attack=attack.title,
                source_model=network.checkpoint.model.title,
                source_defense=network.checkpoint.defense.title,
                source_bits=network.bits,
            ):
                yield network

    def _crafted_elsewhere(self, source: Literal["all"] | Bits, target: DeployJob) -> list[DeployJob]:
        """Networks at the asked bit-widths, of the architectures and defenses that `transfer` names."""
        checkpoint, transfer = target.checkpoint, self.suite.transfer
        models = self.suite.models if transfer.architectures == "all" else (checkpoint.model,)
        defenses = self.suite.defenses if transfer.defenses == "all" else (checkpoint.defense,)
        # A float target is compared with every quantizer that it is the 32-bit member of.
        quantizers = self.suite.quantizers if target.bits.is_float else (target.quantizer,)
        return [
            self._network(model, defense, quantizer, bits, checkpoint.seed)
            for model in models
            for defense in defenses
            for quantizer in quantizers
            for bits in (quantizer.bits if source == "all" else (source,))
            if self._offers(defense, quantizer, bits)
        ]

    def _offers(self, defense: Defense, quantizer: Quantizer, bits: Bits) -> bool:
        if quantizer.trained and not defense.quantization_aware:
            return bits == FLOAT  # an undefended float network still attacks quantized targets
        return bits in quantizer.bits or (bits == FLOAT and not quantizer.trained)

    def _network(self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int) -> DeployJob:
        if bits == FLOAT:
            # Whatever would quantize it, at 32 bits it is the same float network, deployed and measured once.
            checkpoint = self._checkpoint(model, defense, quantizer, FLOAT, seed)
            return DeployJob(checkpoint, self.float_quantizer, FLOAT, self._facts(model))
        checkpoint = self._checkpoint(model, defense, quantizer, bits, seed)
        return DeployJob(checkpoint, quantizer, bits, self._facts(model))

    def _checkpoint(
        self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int
    ) -> TrainJob:
        suite = self.suite
        data = self.data[model.title]
        facts = {"train": data.train, "calibration": data.calibration, "weights": self.weights[model.title]}
        if not defense.quantization_aware:
            return self._float_checkpoint(model, defense, seed, facts)
        trained = quantizer if quantizer.trained else next(q for q in suite.quantizers if q.trained)
        wanted = bits if quantizer.trained else FLOAT
        group = next(group for group in defense.bit_groups(trained.bits) if wanted in group)
        initial, settings = self._start(model, seed, facts)
        return TrainJob(model, defense, trained, group, settings, initial, seed, facts)

    def _float_checkpoint(self, model: ModelSource, defense: Defense, seed: int, facts: dict[str, Any]) -> TrainJob:
        base = self._undefended(model, seed, facts)
        if defense.identity() == base.defense.identity():
            return dataclasses.replace(base, defense=defense)  # the same job, under the suite's own label
        initial, settings = self._start(model, seed, facts)
        return TrainJob(model, defense, None, (FLOAT,), settings, initial, seed, facts)

    def _start(self, model: ModelSource, seed: int, facts: dict[str, Any]) -> tuple[TrainJob | None, TrainingSettings]:
        """Where a defense starts, and its schedule: from float weights if there are any or if asked to."""
        if self.suite.finetuning is not None:
            return self._undefended(model, seed, facts), self.suite.finetuning
        if model.weights != "train":
            return self._undefended(model, seed, facts), self.suite.training
        return None, self.suite.training

    def _undefended(self, model: ModelSource, seed: int, facts: dict[str, Any]) -> TrainJob:
        none: Defense = create(DEFENSES, {"name": "none"})
        return TrainJob(model, none, None, (FLOAT,), self.suite.training, None, seed, facts)


def float_deployment(job: DeployJob) -> DeployJob | None:
    """The 32-bit deployment of the same checkpoint, or None if it has no 32-bit path."""
    if FLOAT not in job.checkpoint.bits:
        return None
    quantizer: Quantizer = create(QUANTIZERS, {"name": "fp", "bits": (FLOAT,)})
    return DeployJob(job.checkpoint, quantizer, FLOAT, job.facts)
