"""`qpatchbench apply`."""

from __future__ import annotations

import math
from pathlib import Path

import click

from qpatchbench.cli.applying import Picture, StoredPatch, decode, pasted, place, read_patch, write
from qpatchbench.errors import QPatchBenchError, suggestion


def _finite(context: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"expected a finite number, found {value}")
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
    "--resize", type=click.IntRange(min=1), metavar="SIDE", help="Crop images to their central square and resize it."
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
    stored = read_patch(patch)
    textures = choose(stored, goal, index, len(images))
    pictures = [
        Picture(image, output, decode(image, resize))
        for image, output in zip(images, outputs(images, out, force=force), strict=True)
    ]
    places = [
        place(stored, texture, picture, (row, column), scale)
        for texture, picture in zip(textures, pictures, strict=True)
    ]
    for texture, picture, (top, left) in zip(textures, pictures, places, strict=True):
        write(picture.output, pasted(stored, texture, picture.pixels, top, left, angle, scale))
        click.echo(str(picture.output))


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


COMMANDS = {"apply": apply}
