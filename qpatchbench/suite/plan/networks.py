"""The networks of a suite: which checkpoint, trained from what and on which patches, deployed by which quantizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.defenses.base import Defense
from qpatchbench.models.base import ModelSource
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.quantizers.base import Quantizer
from qpatchbench.quantizers.given import Given
from qpatchbench.registry import DEFENSES, PREPROCESSORS, QUANTIZERS
from qpatchbench.suite.file.consistency import BARE, UNDEFENDED
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.jobs.pipeline import CraftJob, DeployJob, TrainJob
from qpatchbench.suite.jobs.versions import deployment_release
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.types import FLOAT, Bits

# Apart from the seeds that people choose, and from each other.
POOL_SEEDS, MEMBER_SEEDS = 1_000_003, 2_000_003


class Networks:
    """The networks and the patch pool of a suite, as jobs; asked twice, it gives the same object twice.

    A job's key is computed once per object, so that a plan costs what its jobs do, not what its questions do.

    Args:
        suite: a coherent suite.
        data: model title -> what identifies the images, decoded as that model wants them.
        weights: model title -> hash of the weights it starts from ("" where the suite trains them).
    """

    def __init__(self, suite: Suite, data: Mapping[str, DataKeys], weights: Mapping[str, str]) -> None:
        self.suite, self.data, self.weights = suite, data, weights
        self.float_quantizer: Quantizer = create(QUANTIZERS, {"name": "fp", "bits": (FLOAT,)})
        self._nothing: Preprocessor = create(PREPROCESSORS, {"name": BARE})
        self._splits: dict[tuple[str, int], dict[str, Literal["seen", "unseen"]]] = {}
        # By the identity of the suite's own components, which live as long as this does.
        self._networks: dict[tuple[int, int, int, Bits, int], DeployJob] = {}
        self._given: dict[tuple[int, int], DeployJob] = {}
        self._behind: dict[tuple[int, str], DeployJob] = {}
        self._pools: dict[tuple[int, int, int | None], list[CraftJob]] = {}

    def network(self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int) -> DeployJob:
        """A defended model, deployed at `bits`."""
        at = id(model), id(defense), id(quantizer), bits, seed
        if at not in self._networks:
            own = self._alone(model, defense, quantizer, bits, seed)
            partners = self._partners(model, defense, quantizer, bits, seed)
            self._networks[at] = dataclasses.replace(own, partners=partners)
        return self._networks[at]

    def given(self, model: ModelSource, seed: int) -> DeployJob:
        """A model that is deployed already, as it is."""
        at = id(model), seed
        if at not in self._given:
            ready = model.ready
            assert ready is not None, "asked of models that are deployed already"
            runtime = Given(name="given", bits=(ready.bits,), runtime=ready.runtime, release=ready.release)
            none: Defense = create(DEFENSES, {"name": UNDEFENDED})
            facts = self._facts_of_training(model)
            checkpoint = TrainJob(model, none, None, (ready.bits,), self.suite.training, None, seed, facts)
            self._given[at] = DeployJob(checkpoint, runtime, ready.bits, self.facts(model))
        return self._given[at]

    def trained(self, model: ModelSource) -> ModelSource | None:
        """The model whose networks attacks by gradient are crafted on: itself, or its sibling if it is deployed."""
        if model.ready is None:
            return model
        return next((other for other in self.suite.models if other.title == model.ready.sibling), None)

    @property
    def preprocessors(self) -> tuple[Preprocessor, ...]:
        """What stands before the target networks, each in turn."""
        return self.suite.preprocessors or (self._nothing,)

    def behind(self, preprocessor: Preprocessor, network: DeployJob) -> DeployJob:
        """A bare network with `preprocessor` before it; itself where that is none."""
        if preprocessor.identity() == self._nothing.identity():
            return network
        at = id(preprocessor), network.key
        if at not in self._behind:
            self._behind[at] = dataclasses.replace(network, preprocessor=preprocessor)
        return self._behind[at]

    def _alone(
        self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int, member: int = 0
    ) -> DeployJob:
        checkpoint = self._checkpoint(model, defense, quantizer, bits, seed, member)
        # Whatever would quantize it, at 32 bits it is the same float network, deployed and measured once.
        return DeployJob(checkpoint, self.float_quantizer if bits == FLOAT else quantizer, bits, self.facts(model))

    def _partners(
        self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int
    ) -> tuple[DeployJob, ...]:
        undefended = self._undefended_network(model, seed, self.float_quantizer, FLOAT)
        return tuple(
            self._alone(model, defense, quantizer, partner.bits, seed, partner.seed) if partner.defended else undefended
            for partner in defense.partners(bits)
        )

    def offers(self, defense: Defense, quantizer: Quantizer, bits: Bits) -> bool:
        """Whether patches can be crafted on this defense's network at `bits`."""
        if quantizer.wants_trained and not defense.quantization_aware:
            return bits == FLOAT  # an undefended float network still attacks quantized targets
        return bits in quantizer.bits or (bits == FLOAT and not quantizer.wants_trained)

    def facts(self, model: ModelSource) -> dict[str, Any]:
        """What identifies images, placements and checks, as jobs hash them."""
        data = self.data[model.title]
        return {
            "calibration": data.calibration,
            "craft": data.craft,
            "evaluation": [data.evaluation, self.suite.limit],
            "placement": self.suite.evaluation.placement_seed,
            "side": self.suite.dataset.side,
            # Fast and full checks find the same of a single artifact; one made without checks has nothing to show.
            "checked": self.suite.evaluation.checks != "off",
            **({"deployment": deployment_release(self.suite.deployment)} if self.suite.deployment else {}),
        }

    def split_of(self, model: ModelSource, seed: int) -> dict[str, Literal["seen", "unseen"]]:
        """Key of every patch of the pool -> which part of it."""
        pool = self.suite.pool
        if pool is None:
            return {}
        if (model.title, seed) not in self._splits:
            seen, unseen = self.seen_patches(model, seed, pool.repeats), self.unseen_patches(model, seed)
            split: dict[str, Literal["seen", "unseen"]] = {patch.key: "unseen" for patch in unseen}
            self._splits[(model.title, seed)] = {**split, **{patch.key: "seen" for patch in seen}}
        return self._splits[(model.title, seed)]

    def seen_patches(self, model: ModelSource, seed: int, repeats: int = 1) -> list[CraftJob]:
        """Patches to train on, crafted on the undefended float network; repeats differ by their seed alone."""
        pool, at = self.suite.pool, (id(model), seed, repeats)
        if at not in self._pools:
            seeds = [seed + repeat * POOL_SEEDS for repeat in range(repeats)] if pool is not None else []
            source = self._undefended_network(model, seed, self.float_quantizer, FLOAT)
            patches = [self._patch(attack, source, own) for own in seeds for attack in (pool.seen if pool else ())]
            self._pools[at] = patches
        return self._pools[at]

    def unseen_patches(self, model: ModelSource, seed: int) -> list[CraftJob]:
        """Patches kept from training, crafted on the undefended network at other bit-widths."""
        pool, at = self.suite.pool, (id(model), seed, None)
        if pool is None or pool.unseen_quantizer is None:
            return []
        if at not in self._pools:
            self._pools[at] = [
                self._patch(attack, self._undefended_network(model, seed, pool.unseen_quantizer, bits), seed)
                for attack in pool.unseen
                for bits in pool.unseen_bits
            ]
        return self._pools[at]

    def _patch(self, attack: Attack, source: DeployJob, seed: int) -> CraftJob:
        goals = attack.goals(self.suite.dataset.num_classes)
        return CraftJob(attack, goals, (source,), seed, source.facts)

    def _undefended_network(self, model: ModelSource, seed: int, quantizer: Quantizer, bits: Bits) -> DeployJob:
        checkpoint = self._undefended(model, seed, self._facts_of_training(model))
        return DeployJob(checkpoint, quantizer, bits, self.facts(model))

    def _checkpoint(
        self, model: ModelSource, defense: Defense, quantizer: Quantizer, bits: Bits, seed: int, member: int = 0
    ) -> TrainJob:
        suite, facts = self.suite, self._facts_of_training(model)
        if not defense.quantization_aware:
            return self._float_checkpoint(model, defense, seed, facts)
        trained = quantizer if quantizer.trained else next(q for q in suite.quantizers if q.trained)
        wanted = bits if quantizer.wants_trained else FLOAT
        group = next(group for group in defense.bit_groups(trained.bits) if wanted in group)
        initial, settings = self._start(model, seed, facts)
        patches = self._trained_on(model, defense, seed)
        own_seed = seed + member * MEMBER_SEEDS  # all members start from the same weights where the suite fine-tunes
        return TrainJob(model, defense, trained, group, settings, initial, own_seed, facts, patches)

    def _float_checkpoint(self, model: ModelSource, defense: Defense, seed: int, facts: dict[str, Any]) -> TrainJob:
        base = self._undefended(model, seed, facts)
        if defense.identity() == base.defense.identity():
            return dataclasses.replace(base, defense=defense)  # the same job, under the suite's own label
        initial, settings = self._start(model, seed, facts)
        patches = self._trained_on(model, defense, seed)
        return TrainJob(model, defense, None, (FLOAT,), settings, initial, seed, facts, patches)

    def _trained_on(self, model: ModelSource, defense: Defense, seed: int) -> tuple[CraftJob, ...]:
        pool = self.suite.pool
        if pool is None or not defense.wants_pool:
            return ()
        return tuple(self.seen_patches(model, seed, pool.repeats))

    def _facts_of_training(self, model: ModelSource) -> dict[str, Any]:
        data = self.data[model.title]
        return {"train": data.train, "calibration": data.calibration, "weights": self.weights[model.title]}

    def _start(self, model: ModelSource, seed: int, facts: dict[str, Any]) -> tuple[TrainJob | None, TrainingSettings]:
        """Where a defense starts, and its schedule: from float weights if there are any or if asked to."""
        if self.suite.finetuning is not None:
            return self._undefended(model, seed, facts), self.suite.finetuning
        if model.weights != "train":
            return self._undefended(model, seed, facts), self.suite.training
        return None, self.suite.training

    def _undefended(self, model: ModelSource, seed: int, facts: dict[str, Any]) -> TrainJob:
        none: Defense = create(DEFENSES, {"name": UNDEFENDED})
        return TrainJob(model, none, None, (FLOAT,), self.suite.training, None, seed, facts)
