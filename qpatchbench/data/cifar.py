"""CIFAR-10 and CIFAR-100: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from qpatchbench.data.base import Decoding
from qpatchbench.data.cache import Pool, Pools, make_pool
from qpatchbench.data.cifar_files import SIDE, BatchFile, CifarBatch, read_binary, read_python
from qpatchbench.data.fitting import exactly
from qpatchbench.data.folders import (
    class_folders,
    decode_files,
    file_listing,
    list_images,
    match_classes,
    skipped_text,
)
from qpatchbench.data.looking import not_found, search_roots
from qpatchbench.data.source import CachedSource, Origin
from qpatchbench.data.splitting import pixel_hashes
from qpatchbench.errors import DataError
from qpatchbench.runs.reading import identity_of

POOLS = ("train", "test")


@dataclass(frozen=True)
class Published:
    """The two published archives of one dataset, unpacked.

    Attributes:
        python_folder, python_files: python version; checksums as in torchvision.datasets.CIFAR10 and CIFAR100.
        binary_folder, binary_files: binary version.
        label_key: key of the labels in the python version.
        label_bytes: label bytes of a record of the binary version.
    """

    python_folder: str
    python_files: tuple[BatchFile, ...]
    binary_folder: str
    binary_files: tuple[BatchFile, ...]
    label_key: str
    label_bytes: int


CIFAR10 = Published(
    python_folder="cifar-10-batches-py",
    python_files=(
        BatchFile("data_batch_1", "train", 10_000, "c99cafc152244af753f735de768cd75f"),
        BatchFile("data_batch_2", "train", 10_000, "d4bba439e000b95fd0a9bffe97cbabec"),
        BatchFile("data_batch_3", "train", 10_000, "54ebc095f3ab1f0389bbae665268c751"),
        BatchFile("data_batch_4", "train", 10_000, "634d18415352ddfa80567beed471001a"),
        BatchFile("data_batch_5", "train", 10_000, "482c414d41f54cd18b22e5b47cb7c3cb"),
        BatchFile("test_batch", "test", 10_000, "40351d587109b95175f43aff81a1287e"),
    ),
    binary_folder="cifar-10-batches-bin",
    binary_files=(
        *(BatchFile(f"data_batch_{number}.bin", "train", 10_000) for number in range(1, 6)),
        BatchFile("test_batch.bin", "test", 10_000),
    ),
    label_key="labels",
    label_bytes=1,
)
CIFAR100 = Published(
    python_folder="cifar-100-python",
    python_files=(
        BatchFile("train", "train", 50_000, "16019d7e3df5f24257cddd939b257f8d"),
        BatchFile("test", "test", 10_000, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ),
    binary_folder="cifar-100-binary",
    binary_files=(BatchFile("train.bin", "train", 50_000), BatchFile("test.bin", "test", 10_000)),
    label_key="fine_labels",
    label_bytes=2,
)

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(CIFAR100_NAMES.split())


class _Cifar(CachedSource):
    published: ClassVar[Published]
    class_names: ClassVar[tuple[str, ...]]
    torchvision_class: ClassVar[str]

    download: bool = Field(default=False, description="let torchvision download it into the data folder if absent")

    @property
    def num_classes(self) -> int:
        """Number of fine classes."""
        return len(self.class_names)

    @property
    def side(self) -> int:
        """Always 32."""
        return SIDE

    def identity(self) -> dict[str, Any]:
        """Without `download`, which does not change the images."""
        return {key: value for key, value in super().identity().items() if key != "download"}

    def locate(self, data_dir: Path, decoding: Decoding) -> Origin:
        """The first that is there: python version, binary version, class folders."""
        origin = self._look(data_dir)
        if origin is None:
            raise self._absent(data_dir)
        return origin

    def obtain(self, data_dir: Path, decoding: Decoding) -> Origin:
        """`locate`, after a download if it is wanted and nothing is there."""
        if self.download and self._look(data_dir) is None:
            import torchvision

            try:
                getattr(torchvision.datasets, self.torchvision_class)(data_dir, download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{self.name}: torchvision cannot download it to {data_dir}: {error}") from error
        return self.locate(data_dir, decoding)

    def _look(self, data_dir: Path) -> Origin | None:
        published = self.published
        read_one: dict[str, Callable[[Path, BatchFile], CifarBatch]] = {
            published.python_folder: partial(read_python, label_key=published.label_key, num_classes=self.num_classes),
            published.binary_folder: partial(
                read_binary, label_bytes=published.label_bytes, num_classes=self.num_classes
            ),
        }
        for root in search_roots(data_dir, self.name):
            for name, files in (
                (published.python_folder, published.python_files),
                (published.binary_folder, published.binary_files),
            ):
                if (root / name).is_dir():
                    return self._published_origin(root / name, files, read_one[name])
            # Any train and test folder may lie in the data folder itself: only one that has a class of ours counts.
            if (root / "test").is_dir() and set(class_folders(root / "train")) & set(self.class_names):
                return self._folder_origin(root)
        return None

    def _published_origin(
        self, folder: Path, files: tuple[BatchFile, ...], read_one: Callable[[Path, BatchFile], CifarBatch]
    ) -> Origin:
        absent = [file.name for file in files if not (folder / file.name).is_file()]
        if absent:
            raise DataError(f"{self.name}: {folder} is incomplete, expected also {', '.join(absent)}")
        listing = tuple(f"{file.name}\t{identity_of((folder / file.name).stat())}" for file in files)

        def read() -> Pools:
            pools = {
                pool: _published_pool(pool, [read_one(folder / file.name, file) for file in files if file.pool == pool])
                for pool in POOLS
            }
            return Pools(pools, self.class_names)

        return Origin(listing, {"layout": folder.name}, read, class_names=self.class_names)

    def _folder_origin(self, root: Path) -> Origin:
        for pool in POOLS:
            match_classes(self.name, root / pool, self.class_names)
        files = {pool: list_images(self.name, root / pool, pool, self.class_names) for pool in POOLS}

        def read() -> Pools:
            pools = {pool: decode_files(self.name, files[pool], SIDE, exactly(SIDE)) for pool in POOLS}
            return Pools(pools, self.class_names)

        listing = sum((file_listing(self.name, part) for part in files.values()), ())
        # The published images never went through JPEG: accuracy on such copies is a few points lower.
        compressed = any(line.partition("\t")[0].lower().endswith((".jpg", ".jpeg")) for line in listing)
        note = "jpeg" if compressed else ""
        remarks = sum((skipped_text(self.name, root / pool, self.class_names) for pool in POOLS), ())
        return Origin(listing, {"layout": "class folders"}, read, note, self.class_names, remarks)

    def _absent(self, data_dir: Path) -> DataError:
        layouts = (self.published.python_folder, self.published.binary_folder, "train/<class> and test/<class>")
        tried = [root / layout for root in search_roots(data_dir, self.name) for layout in layouts]
        return not_found(
            self.name,
            [*tried, data_dir / f"{self.name}-*"],
            f"the unpacked archive {layouts[0]} or {layouts[1]}, or class folders train/<class>/<image> and "
            f"test/<class>/<image> with images of {SIDE}x{SIDE} pixels",
            also=", or let torchvision fetch it with download: true",
        )


class Cifar10(_Cifar):
    """CIFAR-10, classes in the published order."""

    published: ClassVar[Published] = CIFAR10
    class_names: ClassVar[tuple[str, ...]] = CIFAR10_CLASSES
    torchvision_class: ClassVar[str] = "CIFAR10"

    name: str = "cifar10"


class Cifar100(_Cifar):
    """CIFAR-100 with its fine labels, classes in the published (alphabetical) order."""

    published: ClassVar[Published] = CIFAR100
    class_names: ClassVar[tuple[str, ...]] = CIFAR100_CLASSES
    torchvision_class: ClassVar[str] = "CIFAR100"

    name: str = "cifar100"


def _published_pool(pool: str, batches: list[CifarBatch]) -> Pool:
    import numpy as np

    pixels = np.concatenate([batch.pixels for batch in batches])
    labels = [label for batch in batches for label in batch.labels]
    ids = [f"{pool}/{index:05d}" for index in range(len(labels))]
    return make_pool(pixels, labels, ids, pixel_hashes(pixels))
