"""The jobs that give a patch: train a checkpoint, deploy it at some bits, craft on what was deployed.

A job's key is the hash of everything that can change its result (resolved fields, component versions, data, upstream
keys) and of nothing else, so a result that is already in the store is never computed again, whichever suite asked.
Nothing here reads data or weights, or imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.defenses.base import Defense
from qpatchbench.models.base import ModelSource
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.registry import QUANTIZERS
from qpatchbench.suite.file.consistency import BARE
from qpatchbench.suite.jobs.base import Job, Sizes
from qpatchbench.suite.jobs.versions import JOB_VERSIONS
from qpatchbench.suite.store.store import key_of
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, HALF, Bits, Goal


@dataclass(frozen=True)
class TrainJob(Job):
    """Learn one checkpoint, on the patches of `pool` if its defense wants them."""

    model: ModelSource
    defense: Defense
    quantizer: Quantizer | None
    bits: tuple[Bits, ...]
    settings: TrainingSettings
    initial: TrainJob | None
    seed: int
    facts: dict[str, Any] = field(compare=False, repr=False)
    pool: tuple[CraftJob, ...] = ()

    kind: ClassVar[str] = "train"

    def identity(self) -> dict[str, Any]:
        """Everything that can change the weights."""
        start = {
            "job": ["train", JOB_VERSIONS["train"]],
            "model": self.model.identity(),
            "weights": self.facts["weights"],
        }
        if not self.trains:
            return start  # weights from a file: neither schedule nor seed nor images matter
        return {
            **start,
            "defense": self.defense.identity(),
            "quantizer": _fields_without_bits(self.quantizer) if self.quantizer else None,
            "bits": [str(bits) for bits in self.bits],
            "settings": _settings_fields(self.settings),
            "initial": self.initial.key if self.initial else None,
            "seed": self.seed,
            "train": self.facts["train"],
            "calibration": self.facts["calibration"] if self.quantizer else None,
            **({"pool": [patch.key for patch in self.pool]} if self.pool else {}),
        }

    @property
    def label(self) -> str:
        """What it works on."""
        group = "" if len(self.bits) == 1 and self.bits[0] == FLOAT else f" [{' '.join(map(str, self.bits))}]"
        return f"{self.model.title} {self.defense.title}{group}, seed {self.seed}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (*((self.initial,) if self.initial else ()), *self.pool)

    @property
    def network(self) -> tuple[str, bool]:
        """The model that learns, and whether through fake quantizers."""
        return self.model.title, self.quantizer is not None

    @property
    def half(self) -> bool:
        """As its settings say."""
        return self.settings.precision == HALF

    @property
    def fused(self) -> bool:
        """As its settings say."""
        return self.settings.compile

    @property
    def trains(self) -> bool:
        """Whether anything is learned; weights from a file are only copied."""
        return self.model.weights == "train" or self.initial is not None

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        each = min(sizes.train, self.settings.images_per_epoch or sizes.train)
        return self.defense.passes(self.bits) * self.settings.epochs * each if self.trains else 0.0


@dataclass(frozen=True)
class DeployJob(Job):
    """Deploy a checkpoint at a bit-width, and predict the clean evaluation images.

    Attributes:
        partners: networks that answer together with this one, where the defense is an ensemble.
        preprocessor: what stands before all of them; None: the bare network.
    """

    checkpoint: TrainJob
    quantizer: Quantizer
    bits: Bits
    facts: dict[str, Any] = field(compare=False, repr=False)
    partners: tuple[DeployJob, ...] = ()
    preprocessor: Preprocessor | None = None

    kind: ClassVar[str] = "deploy"

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
                "calibration": self.facts["calibration"] if quantized and not self.quantizer.wants_trained else None,
                **({"partners": [partner.network_key for partner in self.partners]} if self.partners else {}),
                **({"preprocessor": self._preprocessing(self.preprocessor)} if self.preprocessor else {}),
            }
        )

    @property
    def state_key(self) -> str | None:
        """Identifies what its preprocessor learns, whatever stands behind; None where it learns nothing."""
        if self.preprocessor is None or not self.preprocessor.learns:
            return None
        return key_of(self._preprocessing(self.preprocessor))

    def _preprocessing(self, preprocessor: Preprocessor) -> dict[str, Any]:
        seen = preprocessor.learns_from if preprocessor.learns else None
        return {
            "job": JOB_VERSIONS["preprocess"],
            **preprocessor.identity(),
            "calibration": self.facts["calibration"] if seen == "calibration" else None,
            **({"train": self.checkpoint.facts["train"]} if seen == "train" else {}),
        }

    def identity(self) -> dict[str, Any]:
        """The network and the images it is measured on."""
        names = ("evaluation", "checked", "deployment")
        return {"network": self.network_key, **{name: self.facts[name] for name in names if name in self.facts}}

    @property
    def network(self) -> tuple[str, bool]:
        """The model, and whether it is quantized."""
        return self.checkpoint.model.title, not self.bits.is_float

    @property
    def bare(self) -> DeployJob:
        """The same network with nothing before it."""
        return replace(self, preprocessor=None) if self.preprocessor else self

    @property
    def preprocessor_title(self) -> str:
        """What results call that which stands before it."""
        return self.preprocessor.title if self.preprocessor else BARE

    @property
    def label(self) -> str:
        """What it works on."""
        after = f" after {self.preprocessor.title}" if self.preprocessor else ""
        return (
            f"{self.checkpoint.model.title} {self.checkpoint.defense.title} "
            f"{self.quantizer.mode}@{self.bits}{after}, seed {self.checkpoint.seed}"
        )

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first."""
        return (self.checkpoint, *(partner.checkpoint for partner in self.partners))

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image."""
        return sizes.calibration * (not self.quantizer.wants_trained) + sizes.evaluation


@dataclass(frozen=True)
class CraftJob(Job):
    """Craft the patches of one attack on its source networks: one, several (an ensemble), or none (a control).

    Attributes:
        siblings: the source's backbone at its other bit-widths, for an attack that wants them.
    """

    attack: Attack
    goals: tuple[Goal, ...]
    sources: tuple[DeployJob, ...]
    seed: int
    facts: dict[str, Any] = field(compare=False, repr=False)
    siblings: tuple[DeployJob, ...] = ()

    kind: ClassVar[str] = "craft"

    @property
    def source(self) -> DeployJob | None:
        """The only source; None for controls and ensembles."""
        return self.sources[0] if len(self.sources) == 1 else None

    def identity(self) -> dict[str, Any]:
        """Everything that can change the patches."""
        per_image = self.attack.kind == "per_image"
        images = {
            "learnt": self.facts["craft"] if self.attack.learns else None,
            "attacked": self.facts["evaluation"] if per_image else None,
        }
        # A control looks at no image and no network; only the number of goals and its seed decide it.
        return {
            "job": ["craft", JOB_VERSIONS["craft"]],
            "attack": self.attack.identity(),
            "goals": [str(goal) for goal in self.goals],
            "sources": [source.network_key for source in self.sources],
            "siblings": [sibling.network_key for sibling in self.siblings],
            "float": self._shadow_keys(),
            "images": images if self.sources else self.facts["side"],
            "placement": self.facts["placement"] if per_image else None,
            "seed": self.seed,
            "checked": self.facts["checked"],
        }

    def _shadow_keys(self) -> list[str | None]:
        """The 32-bit networks whose gradient is followed, where that is asked for."""
        if not self.attack.follows_float:
            return []
        return [shadow.network_key if shadow else None for shadow in map(float_deployment, self.sources)]

    @property
    def network(self) -> tuple[str, bool]:
        """The first source."""
        return self.sources[0].network if self.sources else ("", False)

    @property
    def half(self) -> bool:
        """As its attack says, where that lets one choose."""
        return getattr(self.attack, "precision", None) == HALF

    @property
    def fused(self) -> bool:
        """As its attack says, where that lets one choose."""
        return bool(getattr(self.attack, "compile", False))

    @property
    def side(self) -> int:
        """Side of the square that the patch may cover, pixels."""
        return self.attack.size.side(self.facts["side"])

    @property
    def label(self) -> str:
        """What it works on."""
        names = " + ".join(source.label for source in self.sources)
        where = f" on {names}" if names else f", seed {self.seed}"
        return f"{self.attack.title} {self.side}x{self.side}{where}"

    @property
    def upstream(self) -> tuple[Job, ...]:
        """Jobs that must be finished first: the measurement of each source, which also vets the network."""
        return (*self.sources, *self.siblings)

    def cost(self, sizes: Sizes) -> float:
        """Forward passes of one image, a backward pass counted as two."""
        if not self.sources:
            return 0.0
        images = sizes.evaluation if self.attack.kind == "per_image" else getattr(self.attack, "batch_size", 1)
        return self.attack.passes() * images * len(self.goals) * len(self.sources)


def _settings_fields(settings: TrainingSettings) -> dict[str, Any]:
    """All fields; what is no choice, because all images are used, is left out as it was before it could be chosen."""
    left_out = {"images_per_epoch"} if settings.images_per_epoch is None else set()
    return settings.model_dump(mode="json", exclude=left_out)


def _fields_without_bits(quantizer: Quantizer) -> dict[str, Any]:
    """A quantizer's identity without the list of widths the suite deploys: one more width redoes nothing."""
    return {name: value for name, value in quantizer.identity().items() if name != "bits"}


def float_deployment(job: DeployJob) -> DeployJob | None:
    """The 32-bit deployment of the same checkpoint, after the same preprocessor; None if it has no 32-bit path."""
    if FLOAT not in job.checkpoint.bits:
        return None
    quantizer: Quantizer = create(QUANTIZERS, {"name": "fp", "bits": (FLOAT,)})
    return DeployJob(job.checkpoint, quantizer, FLOAT, job.facts, preprocessor=job.preprocessor)


ENSEMBLE = "ensemble"
