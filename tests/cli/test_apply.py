"""`qpatchbench apply`: every pixel of the result, where it goes, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import save_file

from qpatchbench.cli import cli
from qpatchbench.errors import QPatchBenchError
from qpatchbench.suite.store.store import Artifact, Store
from tests.cli.running import ended

ROOT = Path(__file__).parents[2]
Pixels = np.ndarray[Any, Any]


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(seed: int, *shape: int) -> Pixels:
    found: Pixels = draws(seed).integers(0, 256, shape, dtype=np.uint8)
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name: str, height: int = 20, width: int = 26, seed: int = 1) -> Pixels:
    pixels = noise(seed, height, width, 3)
    Image.fromarray(pixels).save(name)
    return pixels


def by_hand(count: int = 1, side: int = 5, name: str = "patch.safetensors", **arrays: Pixels) -> Pixels:
    """A patch file with nothing but textures, and what is given."""
    textures = noise(7, count, 3, side, side)
    save_file({"textures": textures, **arrays}, name)
    return textures


def stored(goals: list[str], count: int, *, placed: bool = True, side: int = 4) -> tuple[str, dict[str, Pixels]]:
    """A patch as the suite stores it, one texture per goal and image; its path and arrays."""
    total = len(goals) * count
    arrays: dict[str, Pixels] = {
        "textures": noise(8, total, 3, side, side),
        "masks": (noise(9, total, 1, side, side) > 80).astype(np.uint8),
        "queries": np.arange(total),
    }
    if placed:
        arrays |= {"rows": draws(3).integers(0, 16, total), "columns": draws(4).integers(0, 16, total)}
    facts = {"history": [0.5], "goals": json.dumps(goals), "stages": []}
    Store(Path("cache")).write("craft", "ab12", Artifact(arrays, facts))
    return "cache/craft/ab/ab12.safetensors", arrays


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["apply", *arguments], standalone_mode=False)


def applied(*arguments: str) -> list[Path]:
    result = invoke(*arguments)
    if result.exception is not None:
        raise result.exception
    return [Path(line) for line in result.output.splitlines()]


def read(path: Path) -> Pixels:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)


def expected(pixels: Pixels, texture: Pixels, row: int, column: int, mask: Pixels | None = None) -> Pixels:
    """Numpy's own pasting: the stored bytes on the mask, the image's elsewhere."""
    found, (_, height, width) = pixels.copy(), texture.shape
    window = found[row : row + height, column : column + width]
    covered = np.ones((height, width), bool) if mask is None else mask[0] > 0
    window[covered] = texture.transpose(1, 2, 0)[covered]
    return found


# What is written


def test_a_patch_by_hand_lies_in_the_centre() -> None:
    pixels, textures = picture("a.png"), by_hand()
    (path,) = applied("patch.safetensors", "a.png", "--out", "new/folder")
    assert path == Path("new/folder/a.patched.png")
    assert np.array_equal(read(path), expected(pixels, textures[0], 7, 10))
    assert np.array_equal(np.asarray(Image.open("a.png")), pixels), "the input was changed"


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 21), (3, 0), (0, 21)])
def test_every_place_up_to_the_last(row: int, column: int) -> None:
    pixels, textures = picture("a.png"), by_hand()
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--row", str(row), "--column", str(column))
    assert np.array_equal(read(path), expected(pixels, textures[0], row, column))


def test_every_byte_value_survives() -> None:
    values = np.arange(256, dtype=np.uint8)
    image = np.stack([values.reshape(16, 16), values[::-1].reshape(16, 16), np.roll(values, 99).reshape(16, 16)], 2)
    Image.fromarray(image).save("a.png")
    texture = np.stack([np.roll(values[:64], shift).reshape(8, 8) * 4 + shift for shift in (0, 1, 3)])
    save_file({"textures": texture[None]}, "patch.safetensors")
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--row", "1", "--column", "2")
    assert np.array_equal(read(path), expected(image, texture, 1, 2))


def test_the_mask_is_kept() -> None:
    mask = (noise(3, 1, 1, 5, 5) > 128).astype(np.uint8)
    assert 5 < mask.sum() < 20
    pixels, textures = picture("a.png"), by_hand(masks=mask)
    (path,) = applied("patch.safetensors", "a.png", "--out", "o")
    assert np.array_equal(read(path), expected(pixels, textures[0], 7, 10, mask[0]))


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_masks_of_other_types(kind: type) -> None:
    mask = np.triu(np.ones((1, 1, 5, 5), np.uint8))
    pixels, textures = picture("a.png"), by_hand(masks=mask.astype(kind))
    (path,) = applied("patch.safetensors", "a.png", "--out", "o")
    assert np.array_equal(read(path), expected(pixels, textures[0], 7, 10, mask[0]))


def test_a_universal_patch_goes_on_every_image_and_a_goal_is_chosen() -> None:
    pixels = {name: picture(f"{name}.png", seed=seed) for seed, name in enumerate("abc")}
    patch, arrays = stored(["4", "untargeted", "7"], 1, placed=False)
    for goal, index in ((None, 0), ("4", 0), ("untargeted", 1), ("7", 2)):
        option = () if goal is None else ("--goal", goal)
        paths = applied(patch, "a.png", "b.png", "c.png", "--out", "o", "--force", *option)
        assert paths == [Path(f"o/{name}.patched.png") for name in "abc"]
        for path, own in zip(paths, pixels.values(), strict=True):
            assert np.array_equal(read(path), expected(own, arrays["textures"][index], 8, 11, arrays["masks"][index]))


@pytest.mark.parametrize(("goal", "first"), [(None, 0), ("2", 3)])
def test_each_image_gets_its_patch_at_its_stored_place(goal: str | None, first: int) -> None:
    pixels = [picture(f"{name}.png", seed=seed) for seed, name in enumerate("abc")]
    patch, arrays = stored(["1", "2"], 3)
    option = () if goal is None else ("--goal", goal)
    paths = applied(patch, "a.png", "b.png", "c.png", "--out", "o", *option)
    for index, (path, own) in enumerate(zip(paths, pixels, strict=True), start=first):
        place = int(arrays["rows"][index]), int(arrays["columns"][index])
        assert np.array_equal(read(path), expected(own, arrays["textures"][index], *place, arrays["masks"][index]))


def test_one_of_the_patches_is_chosen_and_half_a_place_overridden() -> None:
    pixels = [picture(f"{name}.png", seed=seed) for seed, name in enumerate("ab")]
    patch, arrays = stored(["1", "2"], 3)
    paths = applied(patch, "a.png", "b.png", "--out", "o", "--goal", "2", "--index", "1", "--row", "2")
    for path, own in zip(paths, pixels, strict=True):
        place = 2, int(arrays["columns"][4])
        assert np.array_equal(read(path), expected(own, arrays["textures"][4], *place, arrays["masks"][4]))


def test_goals_in_the_metadata_of_the_file() -> None:
    textures, pixels = noise(5, 2, 3, 4, 4), picture("a.png")
    save_file({"textures": textures}, "patch.safetensors", {"goals": '["3", "5"]'})
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--goal", "5")
    assert np.array_equal(read(path), expected(pixels, textures[1], 8, 11))


@pytest.mark.parametrize("text", ["{", "[]", '{"facts": {}}', '{"facts": {"goals": "no list"}}'])
def test_another_json_file_beside_a_patch_by_hand_is_no_matter(text: str) -> None:
    pixels, textures = picture("a.png"), by_hand()
    Path("patch.json").write_text(text)
    (path,) = applied("patch.safetensors", "a.png", "--out", "o")
    assert np.array_equal(read(path), expected(pixels, textures[0], 7, 10))


@pytest.mark.parametrize(("angle", "turns"), [("90", 1), ("-90", 3), ("180", 2), ("360", 0)])
def test_right_angles_turn_counter_clockwise(angle: str, turns: int) -> None:
    pixels, textures = picture("a.png"), by_hand()
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--angle", angle, "--row", "3", "--column", "9")
    turned = np.rot90(textures[0], turns, axes=(1, 2))
    found, exact = read(path).astype(int), expected(pixels, turned, 3, 9).astype(int)
    assert np.abs(found - exact).max() <= 1
    outside = np.ones(pixels.shape[:2], bool)
    outside[3:8, 9:14] = False
    assert np.array_equal(read(path)[outside], pixels[outside])


def test_a_scaled_patch_keeps_its_centre() -> None:
    pixels = picture("a.png", 21, 27)
    save_file({"textures": np.full((1, 3, 4, 4), 200, np.uint8)}, "patch.safetensors")
    for scale, side in (("2", 8), ("0.5", 2), ("3.5", 14)):
        (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--force", "--scale", scale)
        rows, columns = np.nonzero((read(path) != pixels).any(axis=2))
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (side, side)
        assert (rows.max() + rows.min() + 1, columns.max() + columns.min() + 1) == (2 * 8 + 4, 2 * 11 + 4)


def test_a_patch_larger_than_the_image_fits_once_it_is_scaled() -> None:
    picture("a.png", 8, 8)
    save_file({"textures": np.zeros((1, 3, 20, 20), np.uint8)}, "patch.safetensors")
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--scale", "0.2")
    covered = (read(path) == 0).all(axis=2)
    assert covered.sum() == covered[2:6, 2:6].sum() == 16


def test_images_are_cropped_and_resized_on_demand() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 7:23] = 250  # the central square and a margin for the interpolation
    Image.fromarray(image).save("a.png")
    textures = by_hand()
    (path,) = applied("patch.safetensors", "a.png", "--out", "o", "--resize", "40")
    white = np.full((40, 40, 3), 250, np.uint8)
    assert np.array_equal(read(path), expected(white, textures[0], 17, 17))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_images_of_any_mode_are_pasted_on_as_rgb(mode: str) -> None:
    image = Image.fromarray(noise(2, 12, 12, 3)).convert(mode)
    image.save("a.png")
    textures = by_hand()
    (path,) = applied("patch.safetensors", "a.png", "--out", "o")
    with Image.open("a.png") as again:
        decoded = np.array(again.convert("RGB"))
    assert np.array_equal(read(path), expected(decoded, textures[0], 3, 3))


def test_a_jpeg_is_decoded_once_and_never_compressed_again() -> None:
    Image.fromarray(noise(2, 16, 16, 3)).save("photo.jpeg")
    with Image.open("photo.jpeg") as image:
        decoded = np.array(image)
    textures = by_hand()
    (path,) = applied("patch.safetensors", "photo.jpeg", "--out", ".")
    assert path == Path("photo.patched.png")
    assert np.array_equal(read(path), expected(decoded, textures[0], 5, 5))


def test_a_result_is_replaced_when_told_to() -> None:
    picture("a.png")
    by_hand()
    Path("o").mkdir()
    Path("o/a.patched.png").write_text("earlier")
    applied("patch.safetensors", "a.png", "--out", "o", "--force")
    assert read(Path("o/a.patched.png")).shape == (20, 26, 3)


def test_what_an_evaluation_pastes_is_what_is_written() -> None:
    """The same operation as in an evaluation, for a turned and scaled patch too."""
    import torch

    from qpatchbench.ops.patches.pasting import paste, to_float, to_uint8
    from qpatchbench.types import Placement

    pixels, textures = picture("a.png", 24, 24), by_hand()
    (path,) = applied(
        "patch.safetensors", "a.png", "--out", "o", "--angle", "17", "--scale", "1.3", "--row", "6", "--column", "4"
    )
    placement = Placement(torch.tensor([6]), torch.tensor([4]), torch.tensor([17.0]), torch.tensor([1.3]))
    image = to_float(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))[None]
    pasted = paste(image, to_float(torch.from_numpy(textures)), torch.ones(1, 1, 5, 5), placement)
    assert np.array_equal(read(path), to_uint8(pasted)[0].numpy().transpose(1, 2, 0))
    assert 25 < (read(path) != pixels).any(axis=2).sum() < 60


# Refusals


@pytest.fixture
def ground() -> None:
    """Images a.png (20 x 26), b.png and a.jpg; a universal patch u of 5 x 5; others that are no patch."""
    for name, seed in (("a.png", 1), ("b.png", 2), ("a.jpg", 3)):
        picture(name, seed=seed)
    by_hand(name="u.safetensors")
    by_hand(3, name="three.safetensors")
    by_hand(side=30, name="large.safetensors")
    by_hand(name="outside.safetensors", rows=np.array([16]), columns=np.array([0]))
    Path("notes.txt").write_text("no picture")
    Path("broken.safetensors").write_text("no tensors")
    cut = Path("a.png").read_bytes()
    Path("cut.png").write_bytes(cut[: len(cut) // 2])
    other = {"texture": noise(0, 1, 3, 2, 2)}
    save_file(other, "other.safetensors")
    save_file({}, "empty.safetensors")
    save_file({"textures": noise(0, 3, 4, 4)}, "flat.safetensors")
    save_file({"textures": noise(0, 1, 1, 4, 4)}, "grey.safetensors")
    save_file({"textures": np.zeros((1, 3, 4, 4), np.float32)}, "float.safetensors")
    save_file({"textures": np.zeros((0, 3, 4, 4), np.uint8)}, "none.safetensors")
    by_hand(name="masks.safetensors", masks=np.ones((1, 1, 4, 5), np.uint8))
    by_hand(name="soft.safetensors", masks=np.full((1, 1, 5, 5), 255, np.uint8))
    by_hand(name="rows.safetensors", rows=np.array([1, 2]), columns=np.array([1, 2]))
    save_file({"textures": noise(0, 3, 3, 4, 4)}, "uneven.safetensors", {"goals": '["1", "2"]'})
    save_file({"textures": noise(0, 2, 3, 4, 4)}, "goals.safetensors", {"goals": '["17", "untargeted"]'})


REFUSED = [
    (
        "v.safetensors a.png",
        "v.safetensors: expected a patch file, found none. Did you mean: u.safetensors? Available: ",
    ),
    (". a.png", ".: expected a patch file, found a folder."),
    ("o/v.safetensors a.png", "o/v.safetensors: expected a patch file, found none. o holds no .safetensors file."),
    ("broken.safetensors a.png", "broken.safetensors: expected a safetensors file, found something else: "),
    ("a.png a.png", "a.png: expected a safetensors file, found something else: "),
    ("other.safetensors a.png", "other.safetensors: expected an array textures, uint8 (P, 3, h, w), found texture"),
    ("empty.safetensors a.png", "empty.safetensors: expected an array textures, uint8 (P, 3, h, w), found no array"),
    ("flat.safetensors a.png", "flat.safetensors: textures: expected uint8 (P, 3, h, w), found uint8 (3, 4, 4)"),
    ("grey.safetensors a.png", "grey.safetensors: textures: expected uint8 (P, 3, h, w), found uint8 (1, 1, 4, 4)"),
    ("float.safetensors a.png", "textures: expected uint8 (P, 3, h, w), found float32 (1, 3, 4, 4)"),
    ("none.safetensors a.png", "none.safetensors: textures: expected at least one pixel, found shape (0, 3, 4, 4)"),
    ("masks.safetensors a.png", "masks.safetensors: masks: expected uint8 (1, 1, 5, 5), found uint8 (1, 1, 4, 5)"),
    ("soft.safetensors a.png", "soft.safetensors: masks: expected zeros and ones, found values up to 255"),
    ("rows.safetensors a.png", "rows.safetensors: rows: expected int64 (1,), found int64 (2,)"),
    ("uneven.safetensors a.png", "uneven.safetensors: expected as many textures for each of 2 goals, found 3 in all"),
    (
        "goals.safetensors a.png --goal untargetd",
        "goals.safetensors has no goal 'untargetd'. Did you mean: untargeted? Available: 17, untargeted.",
    ),
    ("u.safetensors a.png --goal 1", "u.safetensors has no goal '1'. None is available."),
    (
        "three.safetensors a.png b.png",
        "three.safetensors holds 3 patches for the goal, one per image; expected as many images, or the index of the "
        "patch to use, found 2 images",
    ),
    ("three.safetensors a.png", "or the index of the patch to use, found 1 image"),
    ("three.safetensors a.png --index 3", "expected 0..2, since three.safetensors holds 3 for the goal, found 3"),
    ("u.safetensors a.png --index 1", "expected 0..0, since u.safetensors holds 1 for the goal, found 1"),
    (
        "large.safetensors a.png",
        "a.png: expected at least the 30 x 30 pixels of the patch (height x width), found 20 x 26; enlarge images with "
        "--resize, or shrink the patch with --scale",
    ),
    ("u.safetensors a.png --scale 5", "a.png: expected at least the 25 x 25 pixels of the patch"),
    (
        "large.safetensors a.png --resize 29",
        "expected at least the 30 x 30 pixels of the patch (height x width), found 29",
    ),
    (
        "u.safetensors a.png --row 16",
        "a.png: --row: expected 0..15 for a patch of 5 x 5 pixels on an image of 20 x 26 (height x width), found 16",
    ),
    ("u.safetensors a.png --row -1", "a.png: --row: expected 0..15 for a patch of 5 x 5 pixels"),
    ("u.safetensors a.png --column 22", "a.png: --column: expected 0..21 for a patch of 5 x 5 pixels"),
    ("u.safetensors a.png --scale 2 --row 1", "a.png: --row: expected 2..13 for a patch of 10 x 10 pixels"),
    (
        "u.safetensors a.png b.png --row 12 --scale 2.2 --column 0",
        "a.png: --column: expected 3..18 for a patch of 11 x 11",
    ),
    ("outside.safetensors a.png", "a.png: the stored row: expected 0..15 for a patch of 5 x 5 pixels on an image of"),
    ("u.safetensors a.png c.png", "c.png: expected an image file, found none"),
    ("u.safetensors a.png notes.txt", "notes.txt: expected an image that Pillow can read, found something else: "),
    ("u.safetensors cut.png", "cut.png: expected an image that Pillow can read, found something else: "),
    ("u.safetensors .", ".: expected an image that Pillow can read, found something else: "),
    ("u.safetensors a.png a.jpg", "o/a.patched.png: a.png and a.jpg would have the same result; expected images of"),
    ("u.safetensors a.png a.png", "o/a.patched.png: a.png and a.png would have the same result; expected images of"),
    ("u.safetensors a.png --angle nan", "Invalid value for '--angle': expected a finite number, found nan"),
    ("u.safetensors a.png --scale inf", "Invalid value for '--scale': expected a finite number, found inf"),
    ("u.safetensors a.png --scale 0", "Invalid value for '--scale': 0.0 is not in the range x>0"),
    ("u.safetensors a.png --resize 0", "Invalid value for '--resize': 0 is not in the range x>=1"),
    ("u.safetensors a.png --index -1", "Invalid value for '--index': -1 is not in the range x>=0"),
    ("u.safetensors", "Missing argument 'IMAGE...'"),
]


@pytest.mark.usefixtures("ground")
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_refusals(arguments: str, message: str) -> None:
    result = invoke(*arguments.split(), "--out", "o")
    error = result.exception
    assert isinstance(error, QPatchBenchError | click.UsageError)
    assert message in (str(error) if isinstance(error, QPatchBenchError) else error.format_message())
    assert error.exit_code == 2
    assert not Path("o").exists(), "something was written"


@pytest.mark.usefixtures("ground")
def test_an_earlier_result_is_kept_unless_told_otherwise() -> None:
    Path("o").mkdir()
    Path("o/b.patched.png").write_text("earlier")
    with pytest.raises(QPatchBenchError) as caught:
        applied("u.safetensors", "a.png", "b.png", "--out", "o")
    assert str(caught.value) == "o/b.patched.png: already there; choose another --out, or overwrite it with --force"
    assert [path.name for path in Path("o").iterdir()] == ["b.patched.png"], "a result was written before the refusal"
    assert Path("o/b.patched.png").read_text() == "earlier"


@pytest.mark.usefixtures("ground")
@pytest.mark.parametrize("out", [".", "link"])
def test_an_input_is_never_overwritten(out: str) -> None:
    pixels = picture("a.patched.png", seed=5)
    Path("link").symlink_to(".")
    with pytest.raises(
        QPatchBenchError, match=r"a\.patched\.png: the result for a\.png would overwrite an image given"
    ):
        applied("u.safetensors", "a.png", "a.patched.png", "--out", out, "--force")
    assert np.array_equal(read(Path("a.patched.png")), pixels)


@pytest.mark.usefixtures("ground")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "v.safetensors a.png",
            "error: v.safetensors: expected a patch file, found none. Did you mean: u.safetensors?",
        ),
        ("u.safetensors a.png --goal 1", "Error: Invalid value for --goal: u.safetensors has no goal '1'."),
    ],
)
def test_a_refusal_ends_the_process_with_2_and_no_traceback(arguments: str, message: str, folder: Path) -> None:
    result = ended("apply", *arguments.split(), "--out", "o", folder=folder)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_help_and_refusals_load_nothing_heavy(folder: Path) -> None:
    code = """
import sys
sys.argv = ["qpatchbench", "apply", "--help"]
from qpatchbench.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in ("torch._C", "numpy", "PIL", "safetensors") if name in sys.modules]
assert not heavy, heavy
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "PATCH.safetensors IMAGE..." in result.stdout


def unreadable(name: str) -> str:
    by_hand()
    with pytest.raises(QPatchBenchError) as caught:
        applied("patch.safetensors", name, "--out", "o")
    assert not Path("o").exists()
    return str(caught.value)


def test_an_image_is_upright_as_a_camera_notes_it() -> None:
    by_hand()
    pixels = picture("upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its top to the right
    Image.fromarray(np.rot90(pixels, 1)).save("turned.png", exif=exif)
    results = [
        np.asarray(Image.open(path)) for path in applied("patch.safetensors", "upright.png", "turned.png", "--out", "o")
    ]
    np.testing.assert_array_equal(results[0], results[1])


def test_grey_of_16_bits_keeps_its_levels() -> None:
    by_hand()
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    Image.fromarray(grey).save("grey.png")
    (path,) = applied("patch.safetensors", "grey.png", "--row", "0", "--column", "0", "--out", "o")
    found = np.asarray(Image.open(path))[16:, :, 0]
    np.testing.assert_array_equal(found, np.round(grey[16:] / 257))


def test_images_that_would_look_otherwise_are_refused() -> None:
    begins = "{}: expected an image that Pillow can read, found something else: "
    Image.new("RGBA", (20, 20), (1, 2, 3, 128)).save("clear.png")
    assert unreadable("clear.png") == begins.format("clear.png") + (
        "expected an opaque image, found transparent pixels; lay it on a background first"
    )
    Image.new("L", (20, 20)).save("moving.gif", save_all=True, append_images=[Image.new("L", (20, 20), 255)])
    assert unreadable("moving.gif") == begins.format("moving.gif") + (
        "expected a still image, found one of several frames or pages"
    )
    Path("script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n")
    assert unreadable("script.png") == begins.format("script.png") + (
        "cannot identify its format; expected one of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
    )
    os.mkfifo("pipe.png")
    assert unreadable("pipe.png") == begins.format("pipe.png") + "expected a regular file, found a pipe"
    Image.new("1", (9000, 9000)).save("huge.png")
    assert unreadable("huge.png") == begins.format("huge.png") + (
        "expected at most 50,000,000 pixels, found 9000x9000 = 81,000,000"
    )


def test_a_file_name_reaches_no_terminal_as_it_is() -> None:
    by_hand()
    picture("a\x1b[2J.png")
    result = invoke("patch.safetensors", "a\x1b[2J.png", "--out", "o")
    assert result.output == "o/a\\x1b[2J.patched.png\n"
