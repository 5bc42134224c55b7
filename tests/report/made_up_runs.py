"""Run folders whose tables are written by hand: a leaderboard, costs and similarities without any run."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATASET = "cifar10 (jpeg)"
Rows = Sequence[Mapping[str, Any]]

_ROW = {
    "dataset": DATASET, "model": "resnet20", "defense": "qat", "preprocessor": "none", "quantization": "qat",
    "attack": "gap", "patch_height": "6", "patch_width": "6", "source_model": "resnet20", "source_defense": "qat",
    "source_quantization": "qat", "source_bits": "4", "target_bits": "4", "seen": "", "transformation": "",
    "n_images": "200", "seeds": "1", "asr": "50", "asr_low": "45", "asr_high": "55", "asr_control": "8",
    "asr_control_low": "6", "asr_control_high": "11", "clean_accuracy": "90", "robust_accuracy": "45",
    "lineage": "same-network", "status": "ok", "checks": "ok",
}  # fmt: skip


def row(**facts: object) -> dict[str, str]:
    """A row of a leaderboard; white-box where target_bits alone are given."""
    told = {name: str(value) for name, value in facts.items()}
    if "target_bits" in told:
        mode = told.get("quantization") or ("fp" if told["target_bits"] == "32" else "qat")
        told = {"quantization": mode, "source_quantization": mode, "source_bits": told["target_bits"], **told}
    if "defense" in told:
        told = {"source_defense": told["defense"], **told}
    return {**_ROW, **told}


def pixel_attack(name: str, epsilon: float, label: str | None = None, **fields: object) -> dict[str, Any]:
    """A pixel attack as a manifest states it."""
    return {"name": name, "label": label, "size": "100%", "targets": "untargeted", "epsilon": epsilon, **fields}


def pixel_row(attack: str, bits: str, accuracy: float, **facts: object) -> dict[str, str]:
    """White-box accuracy under a pixel attack."""
    return row(attack=attack, target_bits=bits, patch_height=32, patch_width=32, robust_accuracy=accuracy, **facts)


def cost(defense: str, bits: str, time: float, memory: float, **facts: object) -> dict[str, Any]:
    """A row of costs.parquet; a step of the reference takes two seconds."""
    return {
        "model": "resnet20", "seed": 0, "reference": "qat", "defense": defense, "bits": bits, "batch_size": 128,
        "step_seconds": 2 * time, "step_seconds_low": 1.9 * time, "step_seconds_high": 2.4 * time,
        "images_per_second": 64 / time, "peak_bytes": int(memory * 2**20), "relative_time": time,
        "relative_time_low": 0.95 * time, "relative_time_high": 1.2 * time, "relative_memory": memory,
        "active_bits": bits, **facts,
    }  # fmt: skip


def similarities(
    layers: Sequence[str], bits: Sequence[str] = ("32", "4", "2"), **facts: object
) -> list[dict[str, Any]]:
    """Rows of similarity.parquet, all different."""
    rows: list[dict[str, Any]] = []
    for metric, chance in (("edge_iou", 0.09), ("hog_cosine", 0.77), ("soft_dice", 0.16)):
        for layer in layers:
            for number, first in enumerate(bits):
                for second in bits[number + 1 :]:
                    for images in ("clean", "patched"):
                        shared = {"model": "resnet20", "defense": "qat", "quantization": "qat", "seed": 0}
                        value = 0.3 + 0.6 * ((7 * len(rows)) % 100) / 100
                        named = {"images": images, "layer": layer, "metric": metric, "n_images": 64}
                        pair = {"first_bits": first, "second_bits": second, "value": value, "standard_error": 0.02}
                        rows.append({**shared, **named, **pair, "chance": chance, "corrected": 0.0, **facts})
    return rows


def write_run(
    folder: Path, rows: Rows = (), *, attacks: Rows = (), costs: Rows = (), similarity: Rows = (), **manifest: object
) -> Path:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"dataset_note": DATASET, "resolved": {"attacks": list(attacks)}, **manifest}
    (folder / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    with (folder / "leaderboard.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_ROW])
        writer.writeheader()
        writer.writerows(rows)
    for name, table in (("costs", costs), ("similarity", similarity)):
        if table:
            pq.write_table(pa.Table.from_pylist([dict(each) for each in table]), folder / f"{name}.parquet")
    return folder
