"""Image files in class folders, resized and cropped: ImageNet and folders of one's own.

Russakovsky et al. 2015, arXiv 1409.0575. Either train/<class>/* and val/<class>/*, or one folder of class
folders, from which every part is then taken, train only where `train_images` says how many.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from qpatchbench.data.base import Decoding
from qpatchbench.data.cache import Pools
from qpatchbench.data.fitting import resized_and_cropped
from qpatchbench.data.folders import (
    class_folders,
    decode_files,
    expect_labels,
    file_listing,
    list_images,
    match_classes,
    skipped_text,
)
from qpatchbench.data.looking import not_found, search_roots
from qpatchbench.data.source import CachedSource, Origin
from qpatchbench.errors import DataError
from qpatchbench.labels import checked_line, shown

IMAGENET_CLASSES = 1000
LAYOUT = "train/<class>/<image> and val/<class>/<image>, or one folder of <class>/<image>"


@dataclass(frozen=True)
class _Layout:
    """Folders that hold class folders, by pool name: train and test pool, or one pool."""

    folders: dict[str, Path]
    class_names: tuple[str, ...]


class _FolderSource(CachedSource):
    image_size: int = Field(default=224, gt=0, description="side after cropping", json_schema_extra={"unit": "pixels"})
    crop_fraction: float | None = Field(
        default=None, gt=0, le=1, description="image_size / shorter side after resizing; none = the model's own"
    )
    interpolation: Literal["bilinear", "bicubic"] | None = Field(
        default=None, description="of the resizing; none = the model's own"
    )
    images_per_class: int | None = Field(
        default=None, gt=0, description="read at most this many files per class and pool, chosen by file name"
    )

    @property
    def side(self) -> int:
        """`image_size`."""
        return self.image_size

    @abstractmethod
    def _find(self, data_dir: Path) -> _Layout:
        """The folders, with as many classes as `num_classes`."""

    def locate(self, data_dir: Path, decoding: Decoding) -> Origin:
        """Find the class folders and list their files."""
        layout = self._find(data_dir)
        files = {
            pool: list_images(self.name, folder, pool, layout.class_names, self.images_per_class)
            for pool, folder in layout.folders.items()
        }
        crop_fraction = self.crop_fraction if self.crop_fraction is not None else decoding.crop_fraction
        interpolation = self.interpolation if self.interpolation is not None else decoding.interpolation

        def read() -> Pools:
            fit = resized_and_cropped(self.image_size, crop_fraction, interpolation, decoding.crop_mode, decoding.fill)
            pools = {pool: decode_files(self.name, files[pool], self.image_size, fit) for pool in files}
            return Pools(pools, layout.class_names)

        recipe = {
            "image_size": self.image_size,
            "crop_fraction": crop_fraction,
            "interpolation": interpolation,
            "crop_mode": decoding.crop_mode,
            "fill": decoding.fill,
            "images_per_class": self.images_per_class,
        }
        listing = sum((file_listing(self.name, part) for part in files.values()), ())
        places = layout.folders.values()
        remarks = sum((skipped_text(self.name, folder, layout.class_names) for folder in places), ())
        remarks += self._beside(layout, data_dir)
        return Origin(listing, recipe, read, class_names=layout.class_names, remarks=remarks)

    def _beside(self, layout: _Layout, data_dir: Path) -> tuple[str, ...]:
        """Remarks on folders beside those that are read."""
        return ()


class ImageNet(_FolderSource):
    """ILSVRC 2012, looked for in data_dir, data_dir/imagenet and data_dir/imagenet-*.

    Classes are the sorted WordNet ids. Not every file is read by default: the whole train folder would
    take 190 GB as decoded pixels.
    """

    name: str = "imagenet"
    images_per_class: int | None = Field(
        default=10, gt=0, description="read at most this many files per class and pool, chosen by file name"
    )

    @property
    def num_classes(self) -> int:
        """A thousand."""
        return IMAGENET_CLASSES

    def _find(self, data_dir: Path) -> _Layout:
        roots = search_roots(data_dir, "imagenet")
        # A lone val folder is a folder of class folders like any other.
        for root in [place for base in roots for place in (base, base / "val")]:
            layout = _layout(self.name, root, lambda name: re.fullmatch(r"n\d{8}", name) is not None)
            if layout is not None:
                _expect_classes(self.name, root, layout, IMAGENET_CLASSES)
                return layout
        raise not_found(self.name, [*roots, data_dir / "imagenet-*"], LAYOUT.replace("class", "wnid"))


class ImageFolder(_FolderSource):
    """Any images, one folder per class; classes are the folder names in natural order (2 before 10)."""

    version = 2
    trial: ClassVar[Mapping[str, Any]] = {"path": "images", "classes": 2}

    name: str = "imagefolder"
    path: Annotated[str, AfterValidator(checked_line)] = Field(
        min_length=1, description="folder, absolute or relative to the data folder"
    )
    classes: int = Field(ge=2, description="number of class folders")
    class_order: tuple[str, ...] | None = Field(
        default=None, description="the class folders in label order; none = natural order, 2 before 10"
    )

    @field_validator("class_order")
    @classmethod
    def _every_class_once(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        expected = info.data.get("classes")
        if names is not None and (len(set(names)) != len(names) or expected not in (None, len(names))):
            raise ValueError(f"expected {expected} different names of class folders, found {len(names)}")
        return names

    @property
    def num_classes(self) -> int:
        """`classes`."""
        return self.classes

    def _find(self, data_dir: Path) -> _Layout:
        root = data_dir / self.path
        layout = _layout(self.name, root, lambda name: True)
        if layout is None:
            raise not_found(self.name, [root], LAYOUT)
        _expect_classes(self.name, root, layout, self.classes)
        expect_labels(self.name, root, layout.class_names)
        if self.class_order is None:
            return layout
        for folder in layout.folders.values():
            match_classes(self.name, folder, self.class_order)
        return replace(layout, class_names=self.class_order)

    def _beside(self, layout: _Layout, data_dir: Path) -> tuple[str, ...]:
        """A third part, such as test beside val, is easily taken for the one that is evaluated."""
        root, read = data_dir / self.path, set(layout.folders)
        others = [name for name in class_folders(root) if name not in read] if "all" not in read else []
        parts = " and ".join(layout.folders)
        return (f"{self.name}: read in {root}: {parts}; not read: {shown(', '.join(others))}",) if others else ()


def _layout(dataset: str, root: Path, is_class: Callable[[str], bool]) -> _Layout | None:
    for test in ("val", "test"):
        names = {pool: tuple(filter(is_class, class_folders(root / pool))) for pool in ("train", test)}
        if all(names.values()):
            # Named by the part that is evaluated; a train folder with other classes is an error.
            class_names = names[test]
            match_classes(dataset, root / "train", class_names)
            return _Layout({pool: root / pool for pool in names}, class_names)
    class_names = tuple(filter(is_class, class_folders(root)))
    return _Layout({"all": root}, class_names) if class_names else None


def _expect_classes(dataset: str, root: Path, layout: _Layout, expected: int) -> None:
    found = len(layout.class_names)
    if found != expected:
        first = ", ".join(layout.class_names[:3])
        raise DataError(f"{dataset}: expected {expected} class folders in {root}, found {found} ({first}, ...)")
