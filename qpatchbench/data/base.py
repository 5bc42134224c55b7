"""The contract of a dataset source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from qpatchbench.component import Component
from qpatchbench.data.splitting import fingerprint
from qpatchbench.errors import DataError
from qpatchbench.labels import EXPECTED, is_label, is_printable
from qpatchbench.types import ImageSet


@dataclass(frozen=True)
class Decoding:
    """How image files become (3, image_size, image_size) uint8: resize, then crop the centre; see `data.fitting`.

    Attributes:
        crop_fraction: image_size / side after resizing, in (0, 1].
        interpolation: "bilinear", "bicubic" or another of Pillow's filters.
        crop_mode: which side is resized: "center" (the shorter one), "squash" (both) or "border" (the longer one).
        fill: RGB 0..255 of what "border" adds.
    """

    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    fill: tuple[int, ...] = (0, 0, 0)


@dataclass(frozen=True)
class Survey:
    """What can be said of a dataset without decoding an image.

    Attributes:
        class_names: K names in label order; none where only `load` knows them.
        remarks: for people, one line each; for example which files are not read.
    """

    class_names: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The four disjoint parts of a dataset, and what identifies its content.

    Attributes:
        fingerprints: part -> hash of every pixel, label and id in it, 32 hex digits.
        class_names: K names in label order.
        note: what a reader of results must know about these images, for example "jpeg"; usually empty.
    """

    train: ImageSet
    calibration: ImageSet
    craft: ImageSet
    evaluation: ImageSet
    fingerprints: Mapping[str, str]
    class_names: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        """Names and ids are shown wherever results are.

        Raises:
            DataError: one of them cannot be.
        """
        for name in self.class_names:
            if not is_label(name):
                raise DataError(f"class name {ascii(name)}: expected {EXPECTED}")
        for images in (self.train, self.calibration, self.craft, self.evaluation):
            odd = next((name for name in images.ids if not is_printable(name)), None)
            if odd is not None:
                raise DataError(f"image {ascii(odd)}: expected an id of printable characters on one line")

    @property
    def fingerprint(self) -> str:
        """Hash of every pixel, label and id in the four parts."""
        return fingerprint(self.fingerprints)


class DatasetSource(Component, ABC):
    """Real or made-up images, split by content hash into train, calibration, craft and evaluation."""

    split_seed: int = Field(default=0, ge=0, description="seed of the split")
    train_images: int | None = Field(
        default=None,
        gt=0,
        description="use at most this many for training; where there is no train folder, none unless it is given",
    )
    calibration_images: int = Field(default=512, ge=0, description="held out for quantizer calibration")
    craft_images: int = Field(default=2000, gt=0, description="held out for crafting universal patches")

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes, known without reading data."""

    @property
    @abstractmethod
    def side(self) -> int:
        """Height and width of every image in pixels, known without reading data."""

    @property
    def usual_train_images(self) -> int:
        """About how many images there are to train on, for estimates of cost only."""
        return 50_000

    def survey(self, data_dir: Path) -> Survey | None:
        """Classes in label order and what else a plan should say; None where only `load` knows.

        Raises:
            DataError: the dataset is not there or incomplete.
        """
        return None

    @abstractmethod
    def load(self, data_dir: Path, cache_dir: Path, decoding: Decoding, evaluation_images: int) -> Splits:
        """Read (or decode once and cache) the images and split them.

        Args:
            data_dir: where datasets lie.
            cache_dir: where decoded images are kept.
            decoding: how image files are cropped; ignored by datasets of fixed size.
            evaluation_images: size of the evaluation part; fewer are returned if there are fewer.

        Raises:
            DataError: the dataset is not there or incomplete; says where it was looked for.
        """
