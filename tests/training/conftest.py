from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.fake import Fake
from qpatchbench.defenses.base import Defense
from qpatchbench.defenses.none import NoDefense
from qpatchbench.quantizers.qat import Qat
from qpatchbench.training.loop import TrainingTask, train
from qpatchbench.training.settings import TrainingSettings
from qpatchbench.training.snapshot import Snapshot
from qpatchbench.types import FLOAT, Bits, Progress, silent

SIDE, CLASSES = 8, 4
CPU = torch.device("cpu")
State = Mapping[str, torch.Tensor]


class TinyNet(nn.Module):
    """Everything whose state a snapshot must hold, and a layer that draws at random."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.next = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6 * 16, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 8, 8) -> (B, 4)."""
        features = self.drop(torch.relu(self.norm(self.conv(images))))
        logits: torch.Tensor = self.head(torch.relu(self.next(features)).flatten(1))
        return logits


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    source = Fake(
        classes=CLASSES, image_size=SIDE, train_pool=176, test_pool=32, calibration_images=16, craft_images=64
    )
    folder = tmp_path_factory.mktemp("cache")
    return source.load(folder, folder, Decoding(), 32)


@pytest.fixture
def settings() -> TrainingSettings:
    return TrainingSettings(epochs=4, batch_size=24, learning_rate=0.05)


@pytest.fixture
def quantizer() -> Qat:
    """Learned scales at 4 bits, moving averages at 8, one BatchNorm per width."""
    return Qat(name="qat", bits=(FLOAT, Bits.parse(8), Bits.parse(4)))


class Run:
    """One training: its final state, its snapshots by finished epochs and what progress was told."""

    def __init__(
        self, state: State, snapshots: dict[int, Snapshot], told: list[tuple[float, dict[str, float]]]
    ) -> None:
        self.state, self.snapshots, self.told = state, snapshots, told


@pytest.fixture
def run(splits: Splits, settings: TrainingSettings) -> Callable[..., Run]:
    """Trains `TinyNet`; keywords replace the fields of the task."""

    def made(*, snapshot: Snapshot | None = None, progress: Progress = silent, **fields: Any) -> Run:  # noqa: ANN401
        defense: Defense = NoDefense(name="none")
        task = {
            "build": TinyNet, "defense": defense, "quantizer": None, "bits": (FLOAT,), "settings": settings,
            "initial": None, "seed": 0, **fields,
        }  # fmt: skip
        snapshots: dict[int, Snapshot] = {}
        told: list[tuple[float, dict[str, float]]] = []

        def keep(saved: Snapshot) -> None:
            snapshots[saved.epochs] = saved

        def tell(fraction: float, figures: Mapping[str, float]) -> None:
            told.append((fraction, dict(figures)))
            progress(fraction, figures)

        state = train(
            TrainingTask(**task), splits.train, splits.calibration, device=CPU, snapshot=snapshot, save=keep,
            progress=tell,
        )  # fmt: skip
        return Run(state, snapshots, told)

    return made


def same(first: State, second: State) -> bool:
    """Equal names and, bit for bit, equal tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
