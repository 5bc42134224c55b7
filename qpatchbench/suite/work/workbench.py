"""Images, placements and deployed networks that the jobs of a suite share, each made once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.source import identified
from qpatchbench.errors import DataError, SuiteError
from qpatchbench.evaluation.checks import artifacts
from qpatchbench.models.base import ModelSource
from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.ops.patches.placing import sample_placement
from qpatchbench.ops.randomness import derive_generator, derive_seed
from qpatchbench.origin import is_outside
from qpatchbench.preprocessors.base import Preprocessor
from qpatchbench.quantizers.base import Checkpoint
from qpatchbench.quantizers.inspection.reach import require_reachable
from qpatchbench.runs.records import Check
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.guards.shared_objects import images_fingerprint, network_fingerprint
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.jobs.decoding import decoding_for
from qpatchbench.suite.jobs.pipeline import DeployJob
from qpatchbench.suite.store.store import Artifact, Store
from qpatchbench.types import ImageSet, Placement, Randomized

NETWORKS_IN_MEMORY = 8
PARTS = ("train", "calibration", "craft", "evaluation")
FITTED_IMAGES = 2048  # training images that a preprocessor learns from: as floats they must fit into memory


@dataclass
class Workbench:
    """Holds what several jobs need.

    Attributes:
        suite: what is run.
        store: where results are and go.
        data_dir: where datasets lie.
        device: where to compute.
        runtimes: networks as a runtime answers for them, by their key; `suite.runtimes` keeps them here.
    """

    suite: Suite
    store: Store
    data_dir: Path
    device: torch.device
    _splits: dict[Decoding, Splits] = field(default_factory=dict)
    _evaluation: dict[Decoding, ImageSet] = field(default_factory=dict)
    _networks: OrderedDict[str, torch.nn.Module] = field(default_factory=OrderedDict)
    runtimes: OrderedDict[str, torch.nn.Module] = field(default_factory=OrderedDict)
    _disjoint: dict[Decoding, Check] = field(default_factory=dict)
    _reached: set[str] = field(default_factory=set)
    _lent: dict[str, torch.nn.Module] = field(default_factory=dict)
    _network_prints: dict[str, dict[str, str]] = field(default_factory=dict)
    _image_prints: dict[tuple[Decoding, str], str] = field(default_factory=dict)

    def splits(self, model: ModelSource) -> Splits:
        """The images, decoded as `model` wants them; evaluation images cut to the suite's limit."""
        decoding = decoding_for(model, self.suite)
        if decoding not in self._splits:
            wanted = self.suite.evaluation.images
            dataset = self.suite.dataset
            splits = dataset.load(self.data_dir, self.store.root, decoding, wanted)
            # A source from outside may say of other images what it said of earlier ones.
            self._splits[decoding] = identified(splits) if is_outside(type(dataset)) else splits
            for part in PARTS:
                self._image_prints[decoding, part] = images_fingerprint(getattr(self._splits[decoding], part))
        return self._splits[decoding]

    def dataset_title(self, model: ModelSource) -> str:
        """The dataset's name in results, with what a reader must know about its images: "cifar10 (jpeg)"."""
        note = self.splits(model).note
        return f"{self.suite.dataset.title} ({note})" if note else self.suite.dataset.title

    def evaluation_images(self, model: ModelSource) -> ImageSet:
        """Evaluation images on the device, cut to the suite's limit."""
        decoding = decoding_for(model, self.suite)
        if decoding not in self._evaluation:
            self._evaluation[decoding] = self.splits(model).evaluation[: self.suite.limit].to(self.device)
        return self._evaluation[decoding]

    def placement(self, images: ImageSet, size: int) -> Placement:
        """Where patches of one size lie on the evaluation images: one draw for all cells of the suite."""
        height, width = images.pixels.shape[-2:]
        generator = derive_generator(self.suite.evaluation.placement_seed, "evaluation placement")
        return sample_placement(len(images), (height, width), (size, size), generator)

    def build(self, model: ModelSource) -> torch.nn.Module:
        """The model with the weights it starts from."""
        return model.load(self.suite.dataset.num_classes, self.suite.dataset.side)

    def require_quantizable(self, model: ModelSource) -> None:
        """Refuse a model that quantizers of the suite would leave in float, before anything is trained; once a model.

        A quantizer from outside may reach more than the built-in ones do: its networks are judged as deployed.

        Raises:
            QPatchBenchError: says what is out of reach.
        """
        below = [quantizer for quantizer in self.suite.quantizers if any(not bits.is_float for bits in quantizer.bits)]
        if (
            model.ready
            or model.title in self._reached
            or not below
            or any(is_outside(type(quantizer)) for quantizer in below)
        ):
            return
        images = to_float(self.evaluation_images(model).pixels[:1].cpu())
        require_reachable(self.build(model), images, f"model {model.title!r}")
        self._reached.add(model.title)

    def parts_are_disjoint(self, model: ModelSource) -> Check:
        """V9, computed once per decoding."""
        decoding = decoding_for(model, self.suite)
        if decoding not in self._disjoint:
            splits = self.splits(model)
            parts = {name: getattr(splits, name) for name in PARTS}
            self._disjoint[decoding] = artifacts.parts_are_disjoint(parts)
        return self._disjoint[decoding]

    def network(self, job: DeployJob) -> torch.nn.Module:
        """The deployed network, built again from its checkpoint or kept from an earlier job."""
        key = job.network_key
        if key not in self._networks:
            self._networks[key] = self._built(job).to(self.device)
            self._network_prints[key] = network_fingerprint(self._networks[key])
            if len(self._networks) > NETWORKS_IN_MEMORY:
                self._networks.popitem(last=False)
        self._networks.move_to_end(key)
        self._lent[key] = self._networks[key]
        return self._networks[key]

    def taken_back(self) -> list[str]:
        """What the job that ends now changed of the networks and images it was lent; that is thrown away."""
        changed = []
        for key, network in self._lent.items():
            found, kept = network_fingerprint(network), self._network_prints[key]
            parts = [part for part in {**kept, **found} if kept.get(part) != found.get(part)]
            if parts:
                changed.append(f"a network it was given, in {len(parts)} parts, the first: {parts[0]}")
        self._lent.clear()
        for (decoding, part), loaded in self._image_prints.items():
            if images_fingerprint(getattr(self._splits[decoding], part)) != loaded:
                changed.append(f"the {part} images")
        if changed:  # others may hold the same tensors, so nothing in memory is trusted
            self._networks.clear()
            self._network_prints.clear()
            self._splits.clear()
            self._evaluation.clear()
            self._image_prints.clear()
        return changed

    def answering(self, job: DeployJob, *role: object) -> torch.nn.Module:
        """The deployed network, ready to answer in one role; one that draws at random draws by the role alone."""
        network = self.network(job)
        if isinstance(network, Randomized):
            network.restart(derive_seed(self.suite.evaluation.placement_seed, "answers", *role))
        return network

    def _built(self, job: DeployJob) -> torch.nn.Module:
        if job.preprocessor is not None:
            from qpatchbench.preprocessors.preprocessed import preprocessed

            return preprocessed(
                self.network(job.bare), job.preprocessor, self.preprocessor_state(job.preprocessor, job)
            )
        network = self._deployed(job)
        if not job.partners:
            return network
        partners = [self._deployed(partner) for partner in job.partners]
        return job.checkpoint.defense.combined([network, *partners]).eval()

    def preprocessor_state(self, preprocessor: Preprocessor, job: DeployJob) -> Mapping[str, torch.Tensor]:
        """What the preprocessor learns, learnt once and kept in the store."""
        key = job.state_key
        if key is None:
            return {}
        if not self.store.has("preprocess", key):
            with self.store.alone(f"preprocess-{key}"):
                if not self.store.has("preprocess", key):  # another process may have learnt it meanwhile
                    self._learn(preprocessor, job.checkpoint.model, key)
        return tensors(self.store.read("preprocess", key))

    def _learn(self, preprocessor: Preprocessor, model: ModelSource, key: str) -> None:
        splits = self.splits(model)
        images = splits.calibration if preprocessor.learns_from == "calibration" else spread(splits.train)
        with torch.random.fork_rng(devices=[]):
            state = preprocessor.fit(to_float(images.pixels))
        self.store.write("preprocess", key, Artifact(arrays(state), {"preprocessor": preprocessor.title}))

    def _deployed(self, job: DeployJob) -> torch.nn.Module:
        """The network of the job's own checkpoint, without partners or preprocessor."""
        source, dataset = job.checkpoint, self.suite.dataset
        checkpoint = Checkpoint(
            build=lambda: source.model.build(dataset.num_classes, dataset.side),
            state=tensors(self.store.read(source.kind, source.key)),
            quantizer=source.quantizer,
            bits=source.bits,
        )
        calibration = to_float(self.splits(source.model).calibration.pixels)
        with torch.random.fork_rng(devices=[]):
            return job.quantizer.deploy(checkpoint, job.bits, calibration)


def spread(images: ImageSet) -> ImageSet:
    """At most FITTED_IMAGES of the images, evenly spread."""
    count = min(len(images), FITTED_IMAGES)
    return images.chosen(torch.arange(count) * len(images) // count)


def tensors(artifact: Artifact) -> Mapping[str, torch.Tensor]:
    """Arrays as tensors of their own: those from a file are read-only, and torch wants to own what it trains."""
    return {name: torch.from_numpy(np.array(array)) for name, array in artifact.arrays.items()}


def arrays(state: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors as arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def loaded_data_keys(bench: Workbench, source: Source) -> dict[str, DataKeys]:
    """Model title -> hashes of the four parts, decoding images where that was never done.

    Raises:
        SuiteError: the dataset is not there; says which line asks for it.
    """
    try:
        return {model.title: DataKeys(**bench.splits(model).fingerprints) for model in bench.suite.models}
    except DataError as error:
        raise SuiteError([f"{source.where(('dataset',))}: {error}"]) from None
