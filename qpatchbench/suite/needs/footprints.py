"""Footprint of a network in memory and on disk, from dry passes that count tensors.

Counts do not depend on values: large images and networks have none (torch's device `meta`), so that passes take as long
as operators are many, whatever the size of images and batches.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qpatchbench.data.cache import read_sealed, write_sealed
from qpatchbench.models.base import ModelSource
from qpatchbench.quantizers.trained.fake_quantizers import Role
from qpatchbench.quantizers.trained.switchable import prepare, set_bits, switchable_layers
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.store.store import key_of
from qpatchbench.types import Bits

FILE = "footprints.json"
VERSION = 2  # of what is counted
_SMALL = 64  # pixels of a side up to which values cost less than their absence
_COUNTED = {"cpu": (2, 4), "meta": (32, 64)}  # images of the two passes through which a line is drawn
_ENTRY = 90  # bytes of a tensor's entry in a safetensors header, beside its name


class Line(NamedTuple):
    """Bytes that grow with the images of a batch."""

    fixed: float
    each: float

    def at(self, images: float) -> float:
        """Bytes for so many images."""
        return self.fixed + self.each * images


@dataclass(frozen=True)
class Footprint:
    """Bytes of one network, beside the images that it is shown.

    Attributes:
        weights: parameters and buffers.
        graph: what a forward pass in training keeps for its backward pass.
        answer: the most that an answer without a gradient holds at once.
    """

    weights: int
    graph: Line
    answer: Line

    def differentiated(self, images: float) -> float:
        """The most that a forward and a backward pass of so many images hold: the graph, and gradients of weights."""
        return self.graph.at(images) + self.weights


class StateSize(NamedTuple):
    """Bytes of a state dict as a file, and of the parameters among it."""

    file: int
    learned: int


@dataclass(frozen=True)
class _Usual:
    """Fake quantizers where a suite trains none."""

    scale: str = "ema"
    first_last: str = "eight"
    batch_norm: str = "shared"


class Footprints:
    """Footprints of a suite's networks, each found once and remembered in a file.

    Args:
        suite: whose models are asked for, by title.
        cache: folder of the file.
        keep: whether what is found is written there.
    """

    def __init__(self, suite: Suite, cache: Path, *, keep: bool = True) -> None:
        self._models = {model.title: model for model in suite.models}
        self._side, self._classes = suite.dataset.side, suite.dataset.num_classes
        # Without values, Python stands in for every operator; real ones are quicker where images are small.
        self._device = "cpu" if self._side <= _SMALL else "meta"
        below = [bits for quantizer in suite.quantizers for bits in quantizer.bits if not bits.is_float]
        self._low = below[0] if below else Bits(8, 8)
        self._settings: object = next((quantizer for quantizer in suite.quantizers if quantizer.trained), _Usual())
        self._path, self._keep = cache / FILE, keep
        self._kept = read_sealed(self._path) or {}
        self._networks: dict[str, torch.nn.Module] = {}
        self._asked: dict[tuple[str, str], dict[str, Any] | None] = {}

    def of(self, title: str, quantized: bool) -> Footprint | None:
        """The footprint of a model; None where it cannot be passed through without values, as a deployed one."""
        found = self._remembered(title, f"quantized {self._policy()}" if quantized else "float", self._counted)
        if found is None:
            return None
        return Footprint(found["weights"], Line(*found["graph"]), Line(*found["answer"]))

    def state(self, job: TrainJob) -> StateSize | None:
        """Size of the weights that a job leaves; None where the model cannot be built without values."""
        quantizer = job.quantizer
        policy = None if quantizer is None else [quantizer.identity(), [str(bits) for bits in job.bits]]

        def sized(model: ModelSource, text: str) -> dict[str, Any]:
            network = self._built(model)
            if quantizer is not None:
                _prepared(network, job.bits, quantizer)
            state = network.state_dict()
            file = sum(value.nbytes + len(name) + _ENTRY for name, value in state.items())
            return {"file": file, "learned": sum(value.nbytes for value in network.parameters())}

        found = self._remembered(job.model.title, f"state {json.dumps(policy, sort_keys=True)}", sized)
        return None if found is None else StateSize(found["file"], found["learned"])

    def _remembered(
        self, title: str, what: str, count: Callable[[ModelSource, str], dict[str, Any]]
    ) -> dict[str, Any] | None:
        at = title, what
        if at in self._asked:
            return self._asked[at]
        model = self._models.get(title)
        if model is None or model.ready is not None:
            return None
        facts = {"model": model.identity(), "what": what, "side": self._side, "classes": self._classes}
        key = key_of({**facts, "version": VERSION})
        found: dict[str, Any] | None = self._kept.get(key)
        if found is None:
            try:
                found = count(model, what)
            except Exception:  # a network of somebody's own may ask for values, which nothing here has
                found = None
            if found is not None and self._keep:
                self._kept[key] = found
                write_sealed(self._path, self._kept)
        self._asked[at] = found
        return found

    def _policy(self) -> str:
        names = ("scale", "first_last", "batch_norm")
        return " ".join([str(self._low), *(str(getattr(self._settings, name, None)) for name in names)])

    def _built(self, model: ModelSource) -> torch.nn.Module:
        """A network that may be changed; only the latest is kept."""
        if model.title not in self._networks:
            with torch.random.fork_rng(devices=[]), torch.device(self._device):
                self._networks = {model.title: model.build(self._classes, self._side).to(self._device)}
        return copy.deepcopy(self._networks[model.title])

    def _counted(self, model: ModelSource, what: str) -> dict[str, Any]:
        network, counts = self._built(model), _COUNTED[self._device]
        if what != "float":
            _prepared(network, (self._low,), self._settings)
            set_bits(network, self._low)
        weights = sum(value.nbytes for value in (*network.parameters(), *network.buffers()))
        graphs = [_graph(network, self._images(count)) for count in counts]
        answers = [_answer(network, self._images(count)) for count in counts]
        return {"weights": weights, "graph": list(_line(graphs, counts)), "answer": list(_line(answers, counts))}

    def _images(self, count: int) -> torch.Tensor:
        return torch.zeros(count, 3, self._side, self._side, device=self._device)


def _prepared(network: torch.nn.Module, bits: tuple[Bits, ...], settings: object) -> None:
    """Fake quantizers whose scales have shapes and no values."""
    prepare(network, bits, settings)
    layers = [layer for _, layer in switchable_layers(network)]
    for index, layer in enumerate(layers):
        role = Role(first=index == 0, last=index == len(layers) - 1, signed=True)
        layer.weight_quantizer.assign(role, layer.raw_weight)
        layer.activation_quantizer.assign(role, layer.raw_weight)


def _graph(network: torch.nn.Module, images: torch.Tensor) -> int:
    """Bytes that a forward pass in training keeps."""
    from qpatchbench.suite.needs.live_tensors import LiveTensors

    network.train()
    with LiveTensors() as counted:
        logits = network(images)
    held: int = counted.held
    del logits
    return held


def _answer(network: torch.nn.Module, images: torch.Tensor) -> int:
    """The most bytes that a forward pass without a graph holds."""
    from qpatchbench.suite.needs.live_tensors import LiveTensors

    network.eval()
    with LiveTensors() as counted, torch.no_grad():
        network(images)
    most: int = counted.most
    return most


def _line(sizes: Sequence[int], counts: tuple[int, int]) -> Line:
    each = (sizes[1] - sizes[0]) / (counts[1] - counts[0])
    return Line(max(0.0, sizes[0] - each * counts[0]), each)
