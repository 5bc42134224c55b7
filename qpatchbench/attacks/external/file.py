"""Patches that were made elsewhere: pictures, arrays, the Adversarial Robustness Toolbox's, ImageNet-Patch.

Nothing is crafted: the file is read as data, each patch resized if another size is asked for, and measured like any
other. Where the file lies is no part of the identity; its content, size and targets are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from qpatchbench.attacks.base import Attack
from qpatchbench.errors import PatchFileError
from qpatchbench.labels import checked_line
from qpatchbench.runs.files import sha256_of
from qpatchbench.runs.foreign.foreign_patch import ForeignPatch, expect_there, read_foreign
from qpatchbench.runs.reading import identity_of
from qpatchbench.types import Announced, CraftTask, Goal, Patch, Size, Targeted

Line = Annotated[str, AfterValidator(checked_line)]
UNTARGETED: Literal["untargeted"] = "untargeted"
PLACES = ("file", "mask", "origin", "licence")  # what says where it is from, not what it is


def _without_required_size(schema: dict[str, Any]) -> None:
    """The file has a size of its own, so that an editor asks for none."""
    schema["required"] = [name for name in schema["required"] if name != "size"]


class FilePatch(Attack):
    """Finished patches from a file: .png, .npy, .npz, .safetensors, or the .gz of ImageNet-Patch.

    A patch that is no square lies in the middle of one that it does not cover.
    """

    model_config = ConfigDict(json_schema_extra=_without_required_size)
    access: ClassVar[Literal["gradient", "scores", "none"]] = "none"
    learns: ClassVar[bool] = False
    external: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("file", "mask")
    trial: ClassVar[Mapping[str, Any]] = {"file": "patch.png", "size": 4, "targets": UNTARGETED}
    expected_failures: ClassVar[Mapping[str, str]] = {"another_seed_gives_another_patch": "it is what the file holds"}

    size: Size = Field(description="side in pixels, or the share of the image it covers: 4%; by default the file's own")
    targets: Literal["all", "untargeted"] | tuple[int, ...] = Field(
        default=UNTARGETED,
        description="the class of each patch, in the order of the file; by default those that the file names, of which "
        "some can be chosen here, else untargeted",
    )
    file: Line = Field(description="of the patches; read as data, nothing in it is run")
    mask: Line | None = Field(
        default=None,
        description="a second file, .png or .npy, of where the patch covers; none: what the file itself says, the "
        "transparency of a picture or an array named mask, else the whole square",
    )
    white: float | None = Field(
        default=None,
        gt=0,
        description="value of the brightest pixel in arrays; none: 1, and 255 for whole numbers",
    )
    origin: Line = Field(default="", description="who made it, of what, for which networks; kept with the results")
    licence: Line = Field(default="", description="under which it may be passed on; kept with the results")

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, fields: Any) -> Any:  # noqa: ANN401 (as pydantic has it)
        """Size and targets of the file, where they are not given."""
        if not isinstance(fields, Mapping) or not isinstance(fields.get("file"), str):
            return fields
        if {"size", "targets"} <= set(fields):
            return fields
        try:
            patch = _read(fields["file"], fields.get("mask"), fields.get("white"))
        except (PatchFileError, TypeError) as error:
            raise ValueError(str(error)) from None
        return {"size": patch.side, "targets": patch.targets or UNTARGETED, **fields}

    @property
    def passport(self) -> dict[str, str]:
        """Origin and licence, as far as they are said."""
        return {name: text for name in ("origin", "licence") if (text := getattr(self, name))}

    def identity(self) -> dict[str, Any]:
        """The content of the files instead of their places."""
        own = {name: value for name, value in super().identity().items() if name not in PLACES}
        content = [_hash(name) for name in (self.file, self.mask) if name]
        return {**own, "content": content}

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """A file that cannot be read, or does not hold a patch for each target; one that is missing is told later.

        A suite that says size and targets itself is valid without the file, as it is without images.
        """
        if not _file(self.file).is_file():
            return
        try:
            self._chosen(self.goals(known.classes))
        except PatchFileError as error:
            yield "file", str(error)
        except ValueError as error:
            yield "targets", str(error)

    def craft(self, task: CraftTask) -> Patch:
        """The file's patches for the goals, at the size asked for; neither networks nor images are looked at."""
        found, places = self._chosen(task.goals)
        textures, masks = (torch.from_numpy(each[places].copy()) for each in (found.textures, found.masks))
        masks = masks.float()
        side = self.size.side(task.images.side)
        if side != found.side:
            resized = torch.nn.functional.interpolate(textures, (side, side), mode="bilinear", antialias=True)
            # Where more than half of a pixel is covered; a mask of ones stays one.
            share = torch.nn.functional.interpolate(masks, (side, side), mode="bilinear", antialias=True)
            textures, masks = resized.clamp(0, 1), (share >= 0.5).float()
        return Patch(textures, masks, task.goals)

    def _chosen(self, goals: tuple[Goal, ...]) -> tuple[ForeignPatch, list[int]]:
        """The file's patches in squares, and which one is for which goal.

        Raises:
            PatchFileError: the file cannot be read.
            ValueError: there is not one patch for each goal.
        """
        found = _read(self.file, self.mask, self.white)
        count = len(found.textures)
        if found.targets and all(isinstance(goal, Targeted) for goal in goals):
            asked = [goal.class_id for goal in goals if isinstance(goal, Targeted)]
            missing = [class_id for class_id in asked if class_id not in found.targets]
            if missing:
                named = ", ".join(map(str, found.targets))
                raise ValueError(
                    f"expected classes that {Path(self.file).name} has a patch for, {named}, found "
                    f"{', '.join(map(str, missing))}"
                )
            return found, [found.targets.index(class_id) for class_id in asked]
        if count != len(goals):
            raise ValueError(
                f"expected a target for each of the {count} patches in {Path(self.file).name}, in their order, found "
                f"{len(goals)}: {', '.join(map(str, goals[:5]))}{', ...' if len(goals) > 5 else ''}"
            )
        return found, np.arange(count).tolist()


def _hash(name: str) -> str:
    """SHA-256 of a file.

    Raises:
        PatchFileError: it is not there.
    """
    expect_there(_file(name))
    return sha256_of(_file(name))


def _read(file: str, mask: str | None, white: float | None) -> ForeignPatch:
    paths = [_file(name) for name in (file, mask) if name]
    states = tuple(identity_of(path.stat()) for path in paths if path.is_file())
    return _remembered(paths[0], paths[1] if mask else None, white, states)


@functools.lru_cache(maxsize=8)
def _remembered(file: Path, mask: Path | None, white: float | None, states: tuple[str, ...]) -> ForeignPatch:
    return read_foreign(file, mask, white).squared()


def _file(name: str) -> Path:
    return Path(name).expanduser()
