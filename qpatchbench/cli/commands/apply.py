"""`qpatchbench apply`: a stored patch, pasted on pictures as an evaluation pastes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qpatchbench.errors import QPatchBenchError, suggestion
from qpatchbench.labels import shown

if TYPE_CHECKING:
    import numpy as np

    from qpatchbench.runs.patch_file import StoredPatch


LARGEST_SIDE = 4096  # pixels


def _finite(context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, found {value}")
    return value


def _not_huge(context: click.Context, option: click.Parameter, value: int | None) -> int | None:
    if value is not None and value > LARGEST_SIDE:
        raise click.BadParameter(f"expected at most {LARGEST_SIDE} pixels, found {value}")
    return value


@click.command("apply")
@click.argument("patch", metavar="PATCH.safetensors", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to."
)
@click.option("--goal", help="Class id that the patch steers towards, or untargeted [default: the file's first].")
@click.option(
    "--index",
    type=click.IntRange(min=0),
    help="Which of a goal's per-image patches, from 0 [default: image k gets patch k].",
)
@click.option("--row", type=int, help="Top pixel row of the patch [default: as stored, else the centre].")
@click.option("--column", type=int, help="Left pixel column of the patch [default: as stored, else the centre].")
@click.option(
    "--angle", type=float, default=0.0, metavar="DEGREES", callback=_finite, help="Counter-clockwise about its centre."
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    callback=_finite,
    help="Factor of the patch's size, about its centre.",
)
@click.option(
    "--resize",
    type=click.IntRange(min=1),
    callback=_not_huge,
    metavar="SIDE",
    help="Crop images to their central square and resize it.",
)
@click.option("--force", is_flag=True, help="Overwrite earlier results.")
def apply(
    patch: Path,
    images: tuple[Path, ...],
    out: Path,
    goal: str | None,
    index: int | None,
    row: int | None,
    column: int | None,
    angle: float,
    scale: float,
    resize: int | None,
    force: bool,
) -> None:
    """Paste a stored patch on images and write each as DIR/NAME.patched.png, without loss.

    The patch keeps its size in pixels. Nothing is written unless all of it can be. Row and column are those of the
    patch before it is scaled or turned; corners that then hang over the border are cut off.
    """
    from qpatchbench.runs.patch_file import read_patch

    stored = read_patch(patch)
    textures = choose(stored, goal, index, len(images))
    pictures = [
        InputImage(image, output, decode(image, resize))
        for image, output in zip(images, outputs(images, out, force=force), strict=True)
    ]
    places = [
        place(stored, texture, picture, (row, column), scale)
        for texture, picture in zip(textures, pictures, strict=True)
    ]
    for texture, picture, (top, left) in zip(textures, pictures, places, strict=True):
        write(picture.output, pasted(stored, texture, picture.pixels, top, left, angle, scale))
        click.echo(shown(str(picture.output)))


def choose(stored: StoredPatch, goal: str | None, index: int | None, count: int) -> list[int]:
    """Which texture each of `count` images gets.

    Raises:
        click.BadParameter: no such goal or texture, or it is not clear which texture is for which image.
    """
    if goal is not None and goal not in stored.goals:
        raise click.BadParameter(
            f"{stored.path} has no goal {goal!r}.{suggestion(goal, stored.goals)}", param_hint="--goal"
        )
    each = len(stored.textures) // max(1, len(stored.goals))
    first = stored.goals.index(goal) * each if goal is not None else 0
    if index is not None:
        if index >= each:
            raise click.BadParameter(
                f"expected 0..{each - 1}, since {stored.path} holds {each} for the goal, found {index}",
                param_hint="--index",
            )
        return [first + index] * count
    if each == 1:
        return [first] * count
    if each != count:
        raise click.BadParameter(
            f"{stored.path} holds {each} patches for the goal, one per image; expected as many images, or the index "
            f"of the patch to use, found {count} {'image' if count == 1 else 'images'}",
            param_hint="--index",
        )
    return list(range(first, first + each))


def outputs(images: tuple[Path, ...], folder: Path, *, force: bool) -> list[Path]:
    """Where each result goes; never onto an input, onto another result, or unasked onto an earlier one.

    Raises:
        QPatchBenchError: it would.
    """
    inputs = {image.resolve(): image for image in images}
    taken: dict[Path, Path] = {}
    for image in images:
        path = folder / f"{image.stem}.patched.png"
        if path.resolve() in inputs:
            raise QPatchBenchError(
                f"{path}: the result for {image} would overwrite an image given; choose another --out"
            )
        if path in taken:
            raise QPatchBenchError(
                f"{path}: {taken[path]} and {image} would have the same result; expected images of different names"
            )
        if path.exists() and not force:
            raise QPatchBenchError(f"{path}: already there; choose another --out, or overwrite it with --force")
        taken[path] = image
    return list(taken)


@dataclass(frozen=True)
class InputImage:
    """A decoded image, (H, W, 3) uint8, and the file that its patched copy goes to."""

    path: Path
    output: Path
    pixels: np.ndarray[Any, Any]


def decode(path: Path, resize: int | None) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8, as a viewer shows the image; see `data.pictures`.

    Raises:
        QPatchBenchError: it is missing, or no image that is certain to look as it is read.
    """
    import numpy as np
    from PIL import Image, ImageOps

    from qpatchbench.data.pictures import MOST_BYTES, opened
    from qpatchbench.runs.reading import read_whole

    try:
        picture = opened(read_whole(path, MOST_BYTES))
    except FileNotFoundError:
        raise QPatchBenchError(f"{path}: expected an image file, found none") from None
    except (OSError, ValueError) as error:
        raise QPatchBenchError(
            f"{path}: expected an image that Pillow can read, found something else: {error}"
        ) from None
    if resize is not None:
        picture = ImageOps.fit(picture, (resize, resize), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def place(
    stored: StoredPatch, texture: int, picture: InputImage, given: tuple[int | None, int | None], scale: float
) -> tuple[int, int]:
    """Row and column of the patch before it is scaled.

    Raises:
        QPatchBenchError: the patch does not fit into the image, at all or there.
    """
    sides, room = stored.textures.shape[2:], picture.pixels.shape[:2]
    if any(side * scale > available for side, available in zip(sides, room, strict=True)):
        raise QPatchBenchError(
            f"{picture.path}: expected at least the {_size(sides, scale)} pixels of the patch (height x width), "
            f"found {_size(room)}; enlarge images with --resize, or shrink the patch with --scale"
        )
    found = []
    for axis, name in enumerate(("row", "column")):
        side, available, stored_places = sides[axis], room[axis], stored.places
        # Scaling keeps the centre, so the border moves by half of what the side loses; half a pixel may hang over.
        first = -math.floor((side - side * scale) / 2 + 0.5)
        last = math.floor(available - (side + side * scale) / 2 + 0.5)
        chosen, source = given[axis], f"--{name}"
        if chosen is None:
            chosen, source = (available - side) // 2, "the centre"
            if stored_places is not None:
                chosen, source = int(stored_places[axis][texture]), f"the stored {name}"
        if not first <= chosen <= last:
            raise QPatchBenchError(
                f"{picture.path}: {source}: expected {first}..{last} for a patch of {_size(sides, scale)} pixels on "
                f"an image of {_size(room)} (height x width), found {chosen}"
            )
        found.append(chosen)
    return found[0], found[1]


def _size(sides: tuple[int, ...], scale: float = 1.0) -> str:
    return f"{sides[0] * scale:g} x {sides[1] * scale:g}"


def pasted(
    stored: StoredPatch, texture: int, pixels: np.ndarray[Any, Any], row: int, column: int, angle: float, scale: float
) -> np.ndarray[Any, Any]:
    """The image (H, W, 3) uint8 under the patch, as an evaluation pastes it."""
    import numpy as np
    import torch

    from qpatchbench.ops.patches.pasting import paste, to_float, to_uint8
    from qpatchbench.types import Placement

    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    chosen = slice(texture, texture + 1)
    placement = Placement(torch.tensor([row]), torch.tensor([column]), torch.tensor([angle]), torch.tensor([scale]))
    textures = to_float(torch.from_numpy(stored.textures[chosen]))
    masks = torch.from_numpy(stored.masks[chosen]).float()
    found: np.ndarray[Any, Any] = to_uint8(paste(to_float(image), textures, masks, placement))[0].numpy()
    return found.transpose(1, 2, 0)


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write a PNG file, complete or not at all.

    Raises:
        StorageError: the disk refuses.
    """
    import io

    import numpy as np
    from PIL import Image

    from qpatchbench.runs.files import write_atomically

    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, format="PNG")
    write_atomically(path, data.getvalue())


COMMANDS = {"apply": apply}
