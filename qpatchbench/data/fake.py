"""Made-up images for tests, with learnable classes: each class is a smooth pattern of its own, plus noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from qpatchbench.data.base import Decoding
from qpatchbench.data.cache import Pool, Pools, expect_memory, make_pool
from qpatchbench.data.source import CachedSource, Origin
from qpatchbench.data.splitting import pixel_hashes

if TYPE_CHECKING:
    import numpy as np

WAVES = 4  # cosines per channel of a pattern
HIGHEST_FREQUENCY = 2.0  # periods per image side


class Fake(CachedSource):
    """Seeded synthetic images; label i % classes."""

    trial: ClassVar[Mapping[str, Any]] = {"image_size": 8}
    expected_failures: ClassVar[Mapping[str, str]] = {"a_source_is_named": "made up; there is nothing to cite"}

    name: str = "fake"
    classes: int = Field(default=10, ge=2, description="number of classes")
    image_size: int = Field(default=32, gt=0, description="side", json_schema_extra={"unit": "pixels"})
    train_pool: int = Field(default=1024, gt=0, description="images that train, calibration and craft share")
    test_pool: int = Field(default=256, gt=0, description="images for evaluation")
    noise: float = Field(
        default=0.1, ge=0, description="standard deviation of the noise", json_schema_extra={"unit": "of [0, 1]"}
    )
    content_seed: int = Field(default=0, ge=0, description="seed of patterns and noise")
    calibration_images: int = Field(default=64, ge=0, description="held out for quantizer calibration")
    craft_images: int = Field(default=128, gt=0, description="held out for crafting universal patches")

    @property
    def num_classes(self) -> int:
        """`classes`."""
        return self.classes

    @property
    def side(self) -> int:
        """`image_size`."""
        return self.image_size

    @property
    def usual_train_images(self) -> int:
        """What calibration and crafting leave of the pool."""
        return max(0, self.train_pool - self.calibration_images - self.craft_images)

    def locate(self, data_dir: Path, decoding: Decoding) -> Origin:
        """Nothing to look for: the images follow from the fields."""
        recipe = self.model_dump(
            mode="json",
            include={"classes", "image_size", "train_pool", "test_pool", "noise", "content_seed"},
        )
        return Origin((), recipe, self._read, class_names=self._class_names)

    @property
    def _class_names(self) -> tuple[str, ...]:
        return tuple(f"class{index}" for index in range(self.classes))

    def _read(self) -> Pools:
        import numpy as np

        expect_memory(self.name, self.train_pool + self.test_pool, self.image_size)
        patterns = np.stack(
            [_pattern(np.random.default_rng([self.content_seed, c]), self.image_size) for c in range(self.classes)]
        )

        def pool(name: str, size: int, role: int) -> Pool:
            generator = np.random.default_rng([self.content_seed, self.classes, role])
            labels = [index % self.classes for index in range(size)]
            noise = generator.standard_normal((size, *patterns.shape[1:]), dtype=np.float32)
            images = np.clip(patterns[labels] + self.noise * noise, 0, 1)
            pixels = np.round(images * 255).astype(np.uint8)
            ids = [f"{name}/{index:05d}" for index in range(size)]
            return make_pool(pixels, labels, ids, pixel_hashes(pixels))

        pools = {"train": pool("train", self.train_pool, 0), "test": pool("test", self.test_pool, 1)}
        return Pools(pools, self._class_names)


def _pattern(generator: np.random.Generator, side: int) -> np.ndarray[Any, Any]:
    """(3, side, side) float32 in [0, 1]: a mean of low-frequency cosines."""
    import numpy as np

    rows, columns = np.meshgrid(np.arange(side) / side, np.arange(side) / side, indexing="ij")
    waves = [
        np.cos(
            2 * np.pi * (generator.uniform(-1, 1) * rows + generator.uniform(-1, 1) * columns) * HIGHEST_FREQUENCY
            + generator.uniform(0, 2 * np.pi)
        )
        for _ in range(3 * WAVES)
    ]
    mean: np.ndarray[Any, Any] = np.asarray(waves, dtype=np.float32).reshape(3, WAVES, side, side).mean(axis=1)
    return np.asarray(0.5 + 0.5 * mean, dtype=np.float32)
