"""Handwritten digits that scikit-learn carries: real data without a download.

Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits (UCI): 1,797 grey images of 8x8 pixels,
values 0..16. The set has no test part; 500 images, 50 of each class, are made one by content hash.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from qpatchbench.data.base import Decoding
from qpatchbench.data.cache import Pool, Pools, expect_memory, make_pool
from qpatchbench.data.source import CachedSource, Origin
from qpatchbench.data.splitting import Keys, content_hash, interleave
from qpatchbench.runs.reading import identity_of

CLASSES = 10
CLASS_NAMES = tuple(str(digit) for digit in range(CLASSES))
IMAGES = "datasets/data/digits.csv.gz"  # in the package
TEST_IMAGES = 500
BRIGHTEST = 16  # value of a white pixel
POOL_SEED = 0  # which images are the test pool never depends on split_seed


class Digits(CachedSource):
    """scikit-learn's digits as RGB, enlarged to `image_size` by bilinear interpolation."""

    name: str = "digits"
    image_size: int = Field(default=16, ge=8, description="side", json_schema_extra={"unit": "pixels"})
    calibration_images: int = Field(default=128, ge=0, description="held out for quantizer calibration")
    craft_images: int = Field(default=256, gt=0, description="held out for crafting universal patches")

    @property
    def num_classes(self) -> int:
        """Ten."""
        return CLASSES

    @property
    def side(self) -> int:
        """`image_size`."""
        return self.image_size

    @property
    def usual_train_images(self) -> int:
        """What calibration and crafting leave of 1,297."""
        return 1297 - self.calibration_images - self.craft_images

    def locate(self, data_dir: Path, decoding: Decoding) -> Origin:
        """The installed scikit-learn; `data_dir` is not looked at."""
        try:
            listing = [f"scikit-learn {version('scikit-learn')}"]
        except PackageNotFoundError:
            listing = ["scikit-learn"]  # importing it will say what is wrong
        package = find_spec("sklearn")
        for folder in (package.submodule_search_locations or ()) if package is not None else ():
            file = Path(folder, IMAGES)
            listing += [identity_of(file.stat())] if file.is_file() else []
        return Origin(tuple(listing), {"image_size": self.image_size}, self._read, class_names=CLASS_NAMES)

    def _read(self) -> Pools:
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits

        loaded = load_digits()
        expect_memory(self.name, len(loaded.images), self.image_size)
        grey = np.round(loaded.images * (255 / BRIGHTEST)).astype(np.uint8)
        labels = [int(label) for label in loaded.target]
        size = (self.image_size, self.image_size)
        enlarged = [Image.fromarray(i).resize(size, Image.Resampling.BILINEAR) for i in grey]
        large = np.stack([np.asarray(image) for image in enlarged])
        pixels = np.repeat(large[:, None], 3, axis=1)
        content = [content_hash(image.tobytes()) for image in grey]
        ids = [str(index).zfill(4) for index in range(len(labels))]
        order = interleave(Keys(ids, labels, content, content), POOL_SEED, once=False)

        def pool(name: str, indices: list[int]) -> Pool:
            indices = sorted(indices)
            return make_pool(
                pixels[indices],
                [labels[i] for i in indices],
                [f"{name}/{ids[i]}" for i in indices],
                [content[i] for i in indices],
            )

        pools = {"train": pool("train", order[TEST_IMAGES:]), "test": pool("test", order[:TEST_IMAGES])}
        return Pools(pools, CLASS_NAMES)
