"""Run folders made up for tests: what a run would have written, with outcomes that are simulated or given by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import ArrayLike
from safetensors.numpy import save_file

from qpatchbench.runs.example_images import FIRST
from qpatchbench.runs.layout import patch_file
from qpatchbench.runs.outcomes import Outcomes
from qpatchbench.runs.records import CellRecord, Check
from qpatchbench.statistics.intervals import Array

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck & trailer_$5")
SIDE, PATCH, EXAMPLES = 16, 5, 24


@dataclass
class Folder:
    """A run folder in the making; cells are added, then everything is written."""

    path: Path
    labels: Array
    manifest: dict[str, Any] = field(default_factory=dict)
    cells: list[CellRecord] = field(default_factory=list)
    outcomes: dict[str, Outcomes] = field(default_factory=dict)

    def add(
        self, clean: ArrayLike, patched: Mapping[str, ArrayLike], checks: Sequence[Check] = (), **facts: object
    ) -> CellRecord:
        """A cell with its predictions without a patch, and under every goal."""
        outcomes = Outcomes(
            self.labels, np.array(clean, np.int32), np.array([*patched.values()], np.int32), tuple(patched)
        )
        record = make_record(**facts).model_copy(
            update={
                "n_images": len(self.labels),
                "n_clean_correct": int(outcomes.correct.sum()),
                "counts": outcomes.counts(),
                "checks": (*checks, Check(id="V10", verdict="pass")),
            }
        )
        self.cells.append(record)
        self.outcomes[record.cell] = outcomes
        return record

    def fail(self, error: str, **facts: object) -> None:
        """A cell that crashed."""
        self.cells.append(make_record(**facts).model_copy(update={"status": "error", "error": error}))

    def write(self, *, one_group: bool = False, shuffle: bool = False, side: int = SIDE, kept: int = EXAMPLES) -> Path:
        """Write the folder; `one_group` puts all outcomes into one row group, `shuffle` in random order.

        `kept` images of `side` pixels are kept to be shown.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        ids = [f"test/{number:05d}" for number in range(len(self.labels))]
        pq.write_table(pa.Table.from_pylist([cell.row() for cell in self.cells]), self.path / "cells.parquet")
        tables = [self._table(key, outcomes, ids) for key, outcomes in self.outcomes.items()]
        if one_group:
            whole = pa.concat_tables([table.cast(_plain(table.schema)) for table in tables])
            order = np.random.default_rng(0).permutation(len(whole)) if shuffle else np.arange(len(whole))
            tables = [whole.take(order)]
        with pq.ParquetWriter(self.path / "outcomes.parquet", tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
        self._write_examples(ids[:kept], side)
        manifest = {
            "suite": "made_up",
            "description": "simulated outcomes",
            "dataset_note": "cifar10 (jpeg)",
            "partial": False,
            "class_names": list(CLASSES),
            "resolved": {"suite": "made_up"},
            "versions": {"qpatchbench": "0.1.0"},
            "git": {"revision": "0" * 40, "dirty": True},
            "device": "none",
            "dataset_fingerprint": {"evaluation": "0" * 32},
            "seeds": sorted({cell.seed for cell in self.cells}),
        }
        (self.path / "manifest.json").write_text(json.dumps(manifest | self.manifest), encoding="utf-8")
        return self.path

    def _table(self, key: str, outcomes: Outcomes, ids: list[str]) -> pa.Table:
        goals, count = outcomes.patched.shape
        rows, columns = _placement(count)
        each = np.tile(np.arange(count, dtype=np.int32), goals)
        goal = pa.array(np.repeat(np.arange(goals, dtype=np.int32), count))
        return pa.table(
            {
                "cell": pa.DictionaryArray.from_arrays(pa.array(np.zeros(goals * count, np.int32)), [key]),
                "goal": pa.DictionaryArray.from_arrays(goal, list(outcomes.goals)),
                "image": pa.DictionaryArray.from_arrays(pa.array(each), ids),
                "label": np.tile(outcomes.labels.astype(np.int32), goals),
                "clean_prediction": np.tile(outcomes.clean.astype(np.int32), goals),
                "patched_prediction": outcomes.patched.reshape(-1).astype(np.int32),
                "row": np.tile(rows, goals),
                "column": np.tile(columns, goals),
            }
        )

    def _write_examples(self, ids: list[str], side: int) -> None:
        kept = len(ids)
        generator = np.random.default_rng(1)
        slope = np.linspace(40, 200, side)
        pixels = np.clip(
            slope[None, None, :, None]
            + slope[None, None, None, :] / 3
            + generator.normal(0, 25, (kept, 3, side, side)),
            0,
            255,
        )
        arrays: dict[str, Array] = {"pixels": pixels.astype(np.uint8), "labels": self.labels[:kept].astype(np.int64)}
        arrays["places"] = np.arange(kept)
        for cell in {cell.patch: cell for cell in self.cells if cell.status == "ok"}.values():
            each = len(self.labels) if cell.patch_kind == "per_image" else 1
            size = (cell.patch_height, cell.patch_width)
            seed = int(hashlib.sha256(cell.patch.encode()).hexdigest()[:8], 16)
            own = np.random.default_rng(seed)
            textures = own.integers(0, 256, (len(cell.counts), each, 3, *size), np.uint8)
            masks = _round_mask(len(cell.counts) * each, size)
            path = self.path / patch_file(cell.patch)
            path.parent.mkdir(exist_ok=True)
            save_file({"textures": textures.reshape(-1, 3, *size), "masks": masks}, path)
            first = textures[:, :FIRST].reshape(-1, 3, *size)
            arrays |= {f"patch/{cell.patch}/textures": first, f"patch/{cell.patch}/masks": masks[: len(first)]}
        save_file(arrays, self.path / "examples.safetensors", metadata={"ids": json.dumps(ids)})


def make_record(**facts: object) -> CellRecord:
    """A record whose keys follow from its facts; source fields default to the target's own."""
    whole: dict[str, Any] = {
        "control": False,
        "partial": False,
        "dataset": "cifar10 (jpeg)",
        "model": "resnet20",
        "defense": "qat",
        "quantization": "qat",
        "target_bits": "4",
        "seed": 0,
        "attack": "lavan",
        "patch_kind": "universal",
        "goal_kind": "targeted",
        "patch_height": PATCH,
        "patch_width": PATCH,
        "image_height": SIDE,
        "image_width": SIDE,
    } | facts
    crafted = whole["attack"] not in ("random", "grey")
    for name, own in (
        ("model", "model"),
        ("defense", "defense"),
        ("quantization", "quantization"),
        ("bits", "target_bits"),
    ):
        whole.setdefault(f"source_{name}", whole[own] if crafted else "")
    target = [whole[name] for name in ("model", "defense", "quantization", "target_bits", "seed")]
    source = [whole[f"source_{name}"] for name in ("model", "defense", "quantization", "bits")]
    whole.setdefault("network", _key("network", *target))
    whole.setdefault("patch", _key("patch", whole["attack"], whole["patch_height"], *source, whole["seed"]))
    lineage = "same-network" if [*source, whole["seed"]] == target else "shared-weights"
    whole.setdefault("lineage", (lineage if source[0] == target[0] else "independent") if crafted else "")
    whole.setdefault("cell", _key("cell", whole["patch"], whole["network"]))
    return CellRecord.model_validate(whole)


def simulate(folder: Folder) -> None:
    """Two models, float and qat and ptq at 8, 5, 4, 2 bits, two seeds, two attacks from two sources, controls.

    One network is at chance, one attack crashed, and one attack makes a patch per image.
    """
    generator = np.random.default_rng(7)
    difficulty = generator.random(len(folder.labels))
    for network in _networks():
        bits, seed = network["target_bits"], network["seed"]
        collapsed = (network["model"], bits) == ("vgg16", "2") and network["quantization"] == "ptq-minmax"
        accuracy = 0.1 if collapsed else {"32": 0.93, "8": 0.92, "5": 0.9, "4": 0.86, "2": 0.75}[bits]
        noisy = difficulty + generator.normal(0, 0.03, len(difficulty))
        clean = np.where(noisy < accuracy, folder.labels, (folder.labels + 1) % 10)
        checks = [Check(id="V6", verdict="fail" if collapsed else "pass", message="at chance" * collapsed)]
        goals = ("1", "4", "9")

        def predict(strength: float, names: Sequence[str] = goals, clean: Array = clean) -> dict[str, Array]:
            return {name: _fooled(clean, name, strength, generator) for name in names}

        occlusion = 0.08 + 0.1 * (bits == "2")
        for control in ("random", "grey"):
            folder.add(clean, predict(occlusion), checks, **network, attack=control, control=True)
        for attack, strength in (("lavan", 0.7), ("gap", 0.45)):
            for source in _sources(network):
                near = source["source_bits"] == bits and source["source_model"] == network["model"]
                crafted = strength * (1 if near else 0.6 if source["source_model"] == network["model"] else 0.3)
                facts = network | source | {"attack": attack}
                if (attack, network["model"], bits, seed) == ("gap", "vgg16", "5", 1):
                    folder.fail("Traceback (most recent call last):\n  ...\nAttackError: <b>no patch</b>", **facts)
                else:
                    folder.add(clean, predict(crafted), checks, **facts)
        if network["model"] == "resnet20" and network["quantization"] != "ptq-minmax":
            facts = network | {"attack": "per_image_pgd", "patch_kind": "per_image", "goal_kind": "untargeted"}
            folder.add(clean, predict(0.9, ("untargeted",)), checks, **facts)


def _networks() -> Iterator[dict[str, Any]]:
    for seed in (0, 1):
        for model in ("resnet20", "vgg16"):
            for defense, mode in (("qat", "qat"), ("none", "ptq-minmax")):
                for bits in ("32", "8", "5", "4", "2"):
                    quantization = "fp" if bits == "32" else mode
                    yield {
                        "model": model,
                        "defense": defense,
                        "quantization": quantization,
                        "target_bits": bits,
                        "seed": seed,
                    }


def _sources(network: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    other = "vgg16" if network["model"] == "resnet20" else "resnet20"
    own = {"source_model": network["model"], "source_defense": network["defense"]}
    yield own | {"source_quantization": "fp", "source_bits": "32"}
    if network["target_bits"] != "32":
        yield own | {"source_quantization": network["quantization"], "source_bits": network["target_bits"]}
    yield own | {"source_model": other, "source_quantization": "fp", "source_bits": "32"}


def _fooled(clean: Array, goal: str, strength: float, generator: np.random.Generator) -> Array:
    target = -1 if goal == "untargeted" else int(goal)
    flipped = generator.random(len(clean)) < strength
    other = (clean + 3) % 10
    reached = np.where(generator.random(len(clean)) < 0.7, target, other) if target >= 0 else other
    return np.asarray(np.where(flipped, reached, clean))


def _placement(count: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(3)
    rows, columns = generator.integers(0, SIDE - PATCH + 1, (2, count)).astype(np.int16)
    return rows, columns


def _round_mask(count: int, size: tuple[int, int]) -> Array:
    across, down = (np.linspace(-1, 1, side) * (side - 1) / side for side in size)
    disc = (across[:, None] ** 2 + down[None, :] ** 2) <= 1
    return np.broadcast_to(disc.astype(np.uint8), (count, 1, *size)).copy()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, so that tables of different dictionaries can be joined."""
    return pa.schema(
        [(each.name, each.type.value_type if pa.types.is_dictionary(each.type) else each.type) for each in schema]
    )


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[..., Folder]:
    """Start a run folder from labels."""

    def start(labels: Sequence[int], **manifest: object) -> Folder:
        return Folder(tmp_path / "run", np.array(labels, np.int32), manifest)

    return start


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 300 simulated cells; tests must not write into it."""
    labels = np.arange(120, dtype=np.int32) % 10
    folder = Folder(tmp_path_factory.mktemp("simulated") / "run", labels)
    simulate(folder)
    return folder.write()
