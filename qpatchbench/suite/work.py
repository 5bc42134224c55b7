"""What each kind of job does: from artifacts in the store to one more artifact."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qpatchbench.data.base import Decoding, Splits
from qpatchbench.errors import ArtifactError, AttackError, TrainingError
from qpatchbench.evaluation import checks
from qpatchbench.evaluation.measure import clean_predictions, count_outcomes, patched_predictions
from qpatchbench.evaluation.records import CellRecord, Check
from qpatchbench.models.base import ModelSource
from qpatchbench.ops.pasting import to_float, to_uint8
from qpatchbench.ops.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.suite.decoding import decoding_for
from qpatchbench.suite.plan import CraftJob, DeployJob, EvaluateJob, TrainJob, float_deployment
from qpatchbench.suite.schema import Suite
from qpatchbench.suite.store import Artifact, Store, key_of
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import ImageSet, Patch, Placement, Progress, parse_goal

CHECKED_IMAGES = 64  # images on which networks and patches are vetted
AUDITED_IMAGES = 8  # images on which distinct activation levels are counted
ROUNDED_IMAGES = 256  # images on which 8-bit rounding is tried
NETWORKS_IN_MEMORY = 8


@dataclass
class Workbench:
    """Runs jobs one after the other; holds what several of them need.

    Attributes:
        suite: what is run.
        store: where results are and go.
        data_dir: where datasets lie.
        device: where to compute.
    """

    suite: Suite
    store: Store
    data_dir: Path
    device: torch.device
    _splits: dict[Decoding, Splits] = field(default_factory=dict)
    _evaluation: dict[Decoding, ImageSet] = field(default_factory=dict)
    _networks: OrderedDict[str, torch.nn.Module] = field(default_factory=OrderedDict)
    _disjoint: dict[Decoding, Check] = field(default_factory=dict)

    def splits(self, model: ModelSource) -> Splits:
        """The images, decoded as `model` wants them; evaluation images cut to the suite's limit."""
        decoding = decoding_for(model, self.suite.dataset.side)
        if decoding not in self._splits:
            wanted = self.suite.evaluation.images
            self._splits[decoding] = self.suite.dataset.load(self.data_dir, self.store.root, decoding, wanted)
        return self._splits[decoding]

    def dataset_title(self, model: ModelSource) -> str:
        """The dataset's name in results, with what a reader must know about its images: "cifar10 (jpeg)"."""
        note = self.splits(model).note
        return f"{self.suite.dataset.title} ({note})" if note else self.suite.dataset.title

    def evaluation_images(self, model: ModelSource) -> ImageSet:
        """Evaluation images on the device, cut to the suite's limit."""
        decoding = decoding_for(model, self.suite.dataset.side)
        if decoding not in self._evaluation:
            self._evaluation[decoding] = self.splits(model).evaluation[: self.suite.limit].to(self.device)
        return self._evaluation[decoding]

    def placement(self, images: ImageSet, size: int) -> Placement:
        """Where patches of one size lie on the evaluation images: one draw for all cells of the suite."""
        height, width = images.pixels.shape[-2:]
        generator = derive_generator(self.suite.evaluation.placement_seed, "evaluation placement")
        return sample_placement(len(images), (height, width), (size, size), generator)

    @singledispatchmethod
    def work(self, job: Any, progress: Progress) -> Artifact:  # noqa: ANN401 (dispatched on the kind of job)
        """Compute a job's artifact."""
        raise TypeError(f"no work is known for {type(job).__name__}")

    @work.register
    def _train(self, job: TrainJob, progress: Progress) -> Artifact:
        splits = self.splits(job.model)
        if not job.trains:
            module = self._build(job.model)
            return Artifact(_arrays(module.state_dict()), {"log": []})
        if not len(splits.train):
            raise TrainingError(
                f"{job.label}: {self.suite.dataset.title} has no training images; give the model weights instead"
            )
        task = TrainingTask(
            build=lambda: self._build(job.model),
            defense=job.defense,
            quantizer=job.quantizer,
            bits=job.bits,
            settings=job.settings,
            initial=_tensors(self.store.read(job.initial.kind, job.initial.key)) if job.initial else None,
            seed=job.seed,
        )
        earlier = self._latest_snapshot(job)
        log = list(earlier.log) if earlier else []

        def save(snapshot: Snapshot) -> None:
            log.extend(snapshot.log)
            arrays = {name: tensor.numpy() for name, tensor in snapshot.tensors.items()}
            self.store.write("snapshot", _snapshot_key(job, snapshot.epochs), Artifact(arrays, {"log": log}))
            self.store.remove("snapshot", _snapshot_key(job, snapshot.epochs - 1))

        state = train(
            task,
            splits.train,
            splits.calibration,
            device=self.device,
            snapshot=earlier,
            save=save,
            progress=progress,
        )
        return Artifact(_arrays(state), {"log": log})

    def _build(self, model: ModelSource) -> torch.nn.Module:
        dataset = self.suite.dataset
        return model.load(dataset.num_classes, dataset.side)

    def _latest_snapshot(self, job: TrainJob) -> Snapshot | None:
        for epochs in range(job.settings.epochs, 0, -1):
            key = _snapshot_key(job, epochs)
            if not self.store.has("snapshot", key):
                continue
            try:
                artifact = self.store.read("snapshot", key)
            except ArtifactError:
                self.store.remove("snapshot", key)  # damaged: an earlier one, or the start, will do
                continue
            return Snapshot(_tensors(artifact), epochs, tuple(artifact.facts["log"]))
        return None

    @work.register
    def _deploy(self, job: DeployJob, progress: Progress) -> Artifact:
        network = self.network(job)
        images = self.evaluation_images(job.checkpoint.model)
        predictions = clean_predictions(network, images, self.suite.evaluation.batch_size)
        correct = int((predictions == images.labels.cpu()).sum())
        found: list[Check] = []
        facts: dict[str, Any] = {"n_images": len(images), "n_clean_correct": correct}
        if self.suite.evaluation.checks != "off":
            sample = to_float(images.pixels[:CHECKED_IMAGES])
            classes = self.suite.dataset.num_classes
            found += checks.network_is_sound(network, sample)
            found.append(checks.accuracy_is_above_chance(correct, len(images), classes))
            found.append(self._parts_are_disjoint(job.checkpoint.model))
            facts["audit"] = _audit_facts(network, sample[:AUDITED_IMAGES])
        facts["checks"] = [check.model_dump() for check in checks.merged(found)]
        return Artifact({"predictions": predictions.numpy()}, facts)

    def _parts_are_disjoint(self, model: ModelSource) -> Check:
        decoding = decoding_for(model, self.suite.dataset.side)
        if decoding not in self._disjoint:
            splits = self.splits(model)
            parts = {name: getattr(splits, name) for name in ("train", "calibration", "craft", "evaluation")}
            self._disjoint[decoding] = checks.parts_are_disjoint(parts)
        return self._disjoint[decoding]

    def network(self, job: DeployJob) -> torch.nn.Module:
        """The deployed network, built again from its checkpoint or kept from an earlier job."""
        key = job.network_key
        if key not in self._networks:
            source, dataset = job.checkpoint, self.suite.dataset
            artifact = self.store.read(source.kind, source.key)
            checkpoint = Checkpoint(
                build=lambda: source.model.build(dataset.num_classes, dataset.side),
                state=_tensors(artifact),
                quantizer=source.quantizer,
                bits=source.bits,
            )
            calibration = to_float(self.splits(source.model).calibration.pixels)
            with torch.random.fork_rng(devices=[]):
                network = job.quantizer.deploy(checkpoint, job.bits, calibration)
            self._networks[key] = network.to(self.device)
            if len(self._networks) > NETWORKS_IN_MEMORY:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        return self._networks[key]

    @work.register
    def _craft(self, job: CraftJob, progress: Progress) -> Artifact:
        if job.source is None:
            return self._control(job)
        model = job.source.checkpoint.model
        network = self.network(job.source)
        per_image = job.attack.kind == "per_image"
        images = self.evaluation_images(model) if per_image else self.splits(model).craft.to(self.device)
        placement = self.placement(images, job.attack.size) if per_image else None
        before = checks.state_hash(network.state_dict())
        generator = derive_generator(job.seed, "craft", job.attack.name)
        patch = job.attack.craft(
            network, images, job.goals, placement=placement, generator=generator, progress=progress
        )
        patch = _on_cpu(patch)
        if not bool(torch.isfinite(patch.textures).all()):
            raise AttackError(f"{job.label}: the patch is not finite")
        found: list[Check] = []
        if self.suite.evaluation.checks != "off":
            found.append(checks.state_is_unchanged(before, checks.state_hash(network.state_dict())))
            found += self._vet(job, network, images, patch)
        facts = {"history": list(patch.history), "checks": [check.model_dump() for check in checks.merged(found)]}
        return _patch_artifact(patch, facts)

    def _control(self, job: CraftJob) -> Artifact:
        generator = derive_generator(job.seed, "craft", job.attack.name)
        nothing = ImageSet(torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
        patch = job.attack.craft(_no_network, nothing, job.goals, placement=None, generator=generator)
        found = [checks.patch_is_valid(patch, job.attack.size, 0, 0)]
        return _patch_artifact(patch, {"history": [], "checks": [check.model_dump() for check in found]})

    def _vet(self, job: CraftJob, network: torch.nn.Module, images: ImageSet, patch: Patch) -> list[Check]:
        """V1 and V3 on a few images, with the first goal's patch at the suite's placements."""
        many, few = images[:ROUNDED_IMAGES], images[:CHECKED_IMAGES]
        everywhere = self.placement(images, job.attack.size)
        placement = everywhere[: len(few)]
        own = patch.for_goal(0)
        flips = checks.rounding_flips(network, many, own, everywhere[: len(many)])
        gradients = checks.patch_gradients(network, few, own, placement)
        reference = None
        if job.source is not None and not job.source.bits.is_float:
            float_path = self._float_sibling(job.source)
            reference = checks.patch_gradients(float_path, few, own, placement) if float_path else None
        return [
            checks.patch_is_valid(patch, job.attack.size, *flips),
            checks.outside_is_untouched(to_float(few.pixels).cpu(), own, placement),
            checks.gradients_are_useful(gradients, reference),
        ]

    def _float_sibling(self, job: DeployJob) -> torch.nn.Module | None:
        """The 32-bit path of the same weights, where there is one."""
        sibling = float_deployment(job)
        return self.network(sibling) if sibling is not None else None

    @work.register
    def _evaluate(self, job: EvaluateJob, progress: Progress) -> Artifact:
        images = self.evaluation_images(job.target.checkpoint.model)
        crafted = self.store.read(job.patch.kind, job.patch.key)
        target = self.store.read(job.target.kind, job.target.key)
        patch = patch_from(crafted, job.patch)
        placement = self.placement(images, job.patch.attack.size)
        predictions = patched_predictions(
            self.network(job.target), images, patch, placement, self.suite.evaluation.batch_size
        ).numpy()
        labels, clean = images.labels.cpu().numpy(), target.arrays["predictions"]
        found = [Check(**check) for artifact in (crafted, target) for check in artifact.facts["checks"]]
        if self.suite.evaluation.checks != "off":
            # The job got this far, so the attack did not crash.
            found.append(Check(id="V10", verdict="pass"))
        dataset = self.dataset_title(job.target.checkpoint.model)
        record = record_of(job, self.suite, dataset, images.pixels.shape[-2:]).model_copy(
            update={
                "n_images": len(images),
                "n_clean_correct": int((clean == labels).sum()),
                "counts": count_outcomes(labels, clean, predictions, job.patch.goals),
                "checks": checks.merged(found),
            }
        )
        return Artifact({"predictions": predictions}, {"record": record.model_dump(mode="json")})


def record_of(job: EvaluateJob, suite: Suite, dataset: str, image_size: tuple[int, ...]) -> CellRecord:
    """The record of a cell before it is measured."""
    source, target = job.patch.source, job.target
    attack = job.patch.attack
    return CellRecord(
        cell=job.key[:16],
        control=job.control,
        partial=suite.limit is not None,
        dataset=dataset,
        model=target.checkpoint.model.title,
        defense=target.checkpoint.defense.title,
        quantization=target.quantizer.mode,
        target_bits=str(target.bits),
        seed=target.checkpoint.seed,
        attack=attack.title,
        patch_kind=attack.kind,
        goal_kind="untargeted" if attack.targets == "untargeted" else "targeted",
        patch_height=attack.size,
        patch_width=attack.size,
        image_height=image_size[0],
        image_width=image_size[1],
        source_model=source.checkpoint.model.title if source else "",
        source_defense=source.checkpoint.defense.title if source else "",
        source_quantization=source.quantizer.mode if source else "",
        source_bits=str(source.bits) if source else "",
        lineage=job.lineage,
        patch=job.patch.key[:16],
        network=target.key[:16],
    )


def patch_from(artifact: Artifact, job: CraftJob) -> Patch:
    """Textures exactly as they were stored, in 8 bits."""
    return Patch(
        to_float(torch.from_numpy(artifact.arrays["textures"])),
        torch.from_numpy(artifact.arrays["masks"]).float(),
        tuple(parse_goal(goal) for goal in json.loads(str(artifact.facts["goals"]))),
        tuple(artifact.facts["history"]),
    )


def _patch_artifact(patch: Patch, facts: dict[str, Any]) -> Artifact:
    arrays = {"textures": to_uint8(patch.textures).numpy(), "masks": patch.masks.to(torch.uint8).numpy()}
    return Artifact(arrays, {**facts, "goals": json.dumps([str(goal) for goal in patch.goals])})


def _on_cpu(patch: Patch) -> Patch:
    return Patch(patch.textures.detach().cpu(), patch.masks.cpu(), patch.goals, patch.history)


def _no_network(images: torch.Tensor) -> torch.Tensor:
    raise AttackError("a control asked the network, expected it to look at nothing")


def _audit_facts(network: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """What the network really computes with: counted levels, mean widths, and layers left in float."""
    from qpatchbench.quantizers.audit import audit, effective_bits, unquantized_operations

    layers = audit(network, images)
    if not layers:
        return {}
    return {
        "most_weight_levels": max((layer.weight_levels or 0 for layer in layers), default=0),
        "most_activation_levels": max((layer.activation_levels or 0 for layer in layers), default=0),
        "effective_bits": effective_bits(layers)._asdict(),
        "float_layers": list(unquantized_operations(network)),
    }


def _snapshot_key(job: TrainJob, epochs: int) -> str:
    return key_of({"snapshot": job.key, "epochs": epochs})


def _tensors(artifact: Artifact) -> Mapping[str, torch.Tensor]:
    # Arrays from the file are read-only; torch wants to own what it trains.
    return {name: torch.from_numpy(np.array(array)) for name, array in artifact.arrays.items()}


def _arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}
