"""From a suite to its jobs, in an order in which each comes after what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from qpatchbench.attacks.base import Attack
from qpatchbench.component import create
from qpatchbench.registry import ATTACKS
from qpatchbench.suite.file.consistency import UNDEFENDED, names_of
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.audit import AuditJob, audit_jobs
from qpatchbench.suite.jobs.base import DataKeys, Job
from qpatchbench.suite.jobs.cost import CostJob, cost_jobs
from qpatchbench.suite.jobs.evaluate import EvaluateJob
from qpatchbench.suite.jobs.maps import MapsJob, maps_jobs
from qpatchbench.suite.jobs.pipeline import ENSEMBLE, CraftJob, DeployJob
from qpatchbench.suite.jobs.similarity import SimilarityJob, similarity_jobs
from qpatchbench.suite.plan.networks import Networks
from qpatchbench.suite.store.store import key_of
from qpatchbench.types import FLOAT, Bits, Transformation, distinct

CONTROLS = ("random", "grey")


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

    @property
    def analyses(self) -> tuple[CostJob | SimilarityJob | MapsJob, ...]:
        """Costs, similarities and maps."""
        return tuple(job for job in self.jobs if isinstance(job, CostJob | SimilarityJob | MapsJob))

    @property
    def audits(self) -> tuple[AuditJob, ...]:
        """Jobs of the full checks."""
        return tuple(job for job in self.jobs if isinstance(job, AuditJob))


def make_plan(suite: Suite, data: Mapping[str, DataKeys], weights: Mapping[str, str]) -> Plan:
    """Expand a suite into jobs.

    Args:
        suite: a coherent suite.
        data: model title -> what identifies the images, decoded as that model wants them.
        weights: model title -> hash of the weights it starts from ("" where the suite trains them).
    """
    planner = _Planner(suite, Networks(suite, data, weights))
    found: dict[str, Job] = {}
    cells = tuple(planner.cells())
    audits = audit_jobs(cells) if suite.evaluation.checks == "full" else ()
    for job in (*cells, *planner.analyses(cells), *audits):
        _add(job, found)
    return Plan(suite, tuple(found.values()))


def _add(job: Job, found: dict[str, Job]) -> None:
    if job.key not in found:
        for earlier in job.upstream:
            _add(earlier, found)
        found[job.key] = job


class _Planner:
    def __init__(self, suite: Suite, networks: Networks) -> None:
        self.suite, self.networks = suite, networks

    def cells(self) -> Iterator[EvaluateJob]:
        """White-box, transfer and ensemble cells of every target network, then its controls."""
        for seed in self.suite.seeds:
            for target in distinct([*self._targets(seed)]):
                facts = self.networks.facts(target.checkpoint.model)
                compared: dict[tuple[object, ...], tuple[CraftJob, Transformation]] = {}
                for attack in self.suite.sized_attacks():
                    for sources in self._sources(attack, target):
                        patch = self._patch(attack, sources, seed)
                        for moved in self.suite.transformations(attack):
                            if attack.covers == "square":
                                compared[(patch.side, patch.goals, moved)] = patch, moved
                            yield self._cell(patch, target, moved)
                for patch in self._pooled(target):
                    compared[(patch.side, patch.goals, Transformation())] = patch, Transformation()
                    yield self._cell(patch, target, Transformation())
                for patch, moved in compared.values():
                    for name in CONTROLS:
                        control = create(ATTACKS, {"name": name, "size": patch.side, "targets": patch.attack.targets})
                        crafted = CraftJob(control, patch.goals, (), seed, facts)
                        yield EvaluateJob(crafted, target, True, facts, moved)

    def analyses(self, cells: tuple[EvaluateJob, ...]) -> Iterator[Job]:
        """Costs, similarities and maps of the target networks, without what stands before them."""
        targets = distinct([target.bare for seed in self.suite.seeds for target in self._targets(seed)])
        wanted = self.suite.analysis
        if wanted.costs is not None:
            yield from cost_jobs(targets, wanted.costs, wanted.fewer_bits)
        patches = {
            (model.title, seed): patch
            for seed in self.suite.seeds
            for model in self.suite.models
            for patch in self.networks.seen_patches(model, seed)[:1]
        }
        if wanted.similarity:
            yield from similarity_jobs(targets, patches, wanted.images)
        if wanted.maps:
            yield from maps_jobs(targets, patches, cells, wanted.images, wanted.maps)

    def _cell(self, patch: CraftJob, target: DeployJob, transformation: Transformation) -> EvaluateJob:
        facts = self.networks.facts(target.checkpoint.model)
        split = self.networks.split_of(target.checkpoint.model, target.checkpoint.seed)
        return EvaluateJob(patch, target, False, facts, transformation, split.get(patch.key, ""))

    def _pooled(self, target: DeployJob) -> list[CraftJob]:
        """The patches of the pool, seen and unseen, that are measured on `target`."""
        checkpoint = target.checkpoint
        patches = [
            *self.networks.seen_patches(checkpoint.model, checkpoint.seed),
            *self.networks.unseen_patches(checkpoint.model, checkpoint.seed),
        ]
        return [
            patch
            for patch in patches
            if self.suite.keeps(
                model=checkpoint.model.title,
                defense=checkpoint.defense.title,
                quantizer=names_of(target.quantizer),
                preprocessor=target.preprocessor_title,
                target_bits=target.bits,
                attack=patch.attack.title,
                source_model=checkpoint.model.title,
                source_defense=UNDEFENDED,
                source_bits=patch.sources[0].bits,
                seed=checkpoint.seed,
            )
        ]

    def _patch(self, attack: Attack, sources: tuple[DeployJob, ...], seed: int) -> CraftJob:
        goals = attack.goals(self.suite.dataset.num_classes)
        siblings = self._backbone(sources[0]) if attack.wants_siblings else ()
        others = tuple(network for network in siblings if network not in sources)
        return CraftJob(attack, goals, sources, seed, self.networks.facts(sources[0].checkpoint.model), others)

    def _targets(self, seed: int) -> Iterator[DeployJob]:
        for model in self.suite.models:
            for defense in self.suite.defenses:
                for quantizer in self.suite.quantizers:
                    for bits in quantizer.bits:
                        facts = {"model": model.title, "defense": defense.title, "quantizer": names_of(quantizer)}
                        for preprocessor in self.networks.preprocessors:
                            place = {"target_bits": bits, "preprocessor": preprocessor.title, "seed": seed}
                            if self.suite.keeps(**facts, **place):
                                bare = self.networks.network(model, defense, quantizer, bits, seed)
                                yield self.networks.behind(preprocessor, bare)

    def _sources(self, attack: Attack, target: DeployJob) -> Iterator[tuple[DeployJob, ...]]:
        """The networks that `attack` is crafted on for `target`, one or several at a time."""
        found: list[tuple[DeployJob, ...]] = []
        for source in self.suite.transfer.sources:
            if source == "ensemble":
                found += self._ensembles(target)
            elif source == "other-models":
                found += self._other_models(target)
            else:
                alone = [target] if source == "same" else self._crafted_elsewhere(source, target)
                found += [(network,) for network in alone]
        for networks in distinct(found):
            fits = attack.sources == "any" or (attack.sources == "several") == (len(networks) > 1)
            if fits and self.suite.keeps(
                model=target.checkpoint.model.title,
                defense=target.checkpoint.defense.title,
                quantizer=names_of(target.quantizer),
                preprocessor=target.preprocessor_title,
                target_bits=target.bits,
                attack=attack.title,
                source_model=tuple(network.checkpoint.model.title for network in networks),
                source_defense=tuple(network.checkpoint.defense.title for network in networks),
                source_bits=networks[0].bits if len(networks) == 1 else ENSEMBLE,
                seed=target.checkpoint.seed,
            ):
                yield networks

    def _ensembles(self, target: DeployJob) -> list[tuple[DeployJob, ...]]:
        """All bit-widths of the target's own backbone, once per quantizer that the target belongs to."""
        checkpoint = target.checkpoint
        quantizers = self.suite.quantizers if target.bits.is_float else (target.quantizer,)
        found = []
        for quantizer in quantizers:
            widths = [bits for bits in distinct((FLOAT, *quantizer.bits))]
            members = [
                self.networks.network(checkpoint.model, checkpoint.defense, quantizer, bits, checkpoint.seed)
                for bits in widths
                if self.networks.offers(checkpoint.defense, quantizer, bits)
            ]
            found.append(tuple({member.network_key: member for member in members}.values()))
        return [members for members in found if len(members) > 1]

    def _backbone(self, network: DeployJob) -> tuple[DeployJob, ...]:
        """Every bit-width of the network's own backbone, after the same preprocessor."""
        members = [job for members in self._ensembles(network) for job in members]
        if network.preprocessor is not None:
            members = [replace(job, preprocessor=network.preprocessor) for job in members]
        return tuple({job.network_key: job for job in members}.values())

    def _other_models(self, target: DeployJob) -> list[tuple[DeployJob, ...]]:
        """The 32-bit networks of every other model: an ensemble that has not seen the target's architecture."""
        checkpoint = target.checkpoint
        members = [
            self.networks.network(model, checkpoint.defense, self.suite.quantizers[0], FLOAT, checkpoint.seed)
            for model in self.suite.models
            if model.title != checkpoint.model.title
        ]
        return [tuple(members)] if len(members) > 1 else []

    def _crafted_elsewhere(self, source: Literal["all"] | Bits, target: DeployJob) -> list[DeployJob]:
        """Networks at the asked bit-widths, of the architectures and defenses that `transfer` names."""
        checkpoint, transfer = target.checkpoint, self.suite.transfer
        models = self.suite.models if transfer.architectures == "all" else (checkpoint.model,)
        defenses = self.suite.defenses if transfer.defenses == "all" else (checkpoint.defense,)
        # A float target is compared with every quantizer that it is the 32-bit member of.
        quantizers = self.suite.quantizers if target.bits.is_float else (target.quantizer,)
        return [
            self.networks.network(model, defense, quantizer, bits, checkpoint.seed)
            for model in models
            for defense in defenses
            for quantizer in quantizers
            for bits in (quantizer.bits if source == "all" else (source,))
            if self.networks.offers(defense, quantizer, bits)
        ]
