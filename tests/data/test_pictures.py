"""Image files are read as people see them, or refused with the reason, before they cost anything."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from qpatchbench.data import pictures
from qpatchbench.data.folders import file_listing, list_images
from qpatchbench.data.pictures import opened
from qpatchbench.errors import DataError

TRANSPARENT = "expected an opaque image, found transparent pixels; lay it on a background first"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 (Pillow's own)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(data: bytes) -> list[list[int]]:
    image = opened(data)
    assert image.mode == "RGB"
    found: list[list[int]] = np.asarray(image)[..., 0].tolist()
    return found


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "order"), [("PNG", "<u2"), ("PPM", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_grey_of_16_bits_becomes_the_nearest_of_256_levels(kind: str, order: str) -> None:
    values = np.array([[0, 128, 129, 257, 5000, 32767, 65535]])
    expected = np.round(values / 257).tolist()  # 65535 / 255 = 257
    assert red(encoded(Image.fromarray(values.astype(order)), kind)) == expected


def test_grey_of_10_bits_and_of_one_bit_reach_black_and_white() -> None:
    assert red(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 1023, 512)) == [[0, 255, 128]]
    assert red(encoded(Image.fromarray(np.array([[False, True]])), "PNG")) == [[0, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_cameras_orientation_is_carried_out(kind: str, orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture, kind, exif=exif, **lossless)
    # By the meaning of the tag: where row 0 and column 0 of what is stored lie in what is seen.
    pixels = np.asarray(picture)
    seen = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: pixels.transpose(1, 0, 2)[::-1],
    }
    np.testing.assert_array_equal(np.asarray(opened(data)), seen[orientation])


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0", b"nonsense"])
def test_a_damaged_orientation_is_none(exif: bytes, picture: Image.Image) -> None:
    assert opened(encoded(picture, "JPEG", exif=exif)).size == picture.size


def test_cmyk_and_opaque_alpha_and_palettes_become_rgb(picture: Image.Image) -> None:
    assert opened(encoded(picture.convert("RGBA"), "PNG")).tobytes() == picture.tobytes()
    assert red(encoded(Image.new("LA", (2, 1), (77, 255)), "PNG")) == [[77, 77]]
    palette = picture.quantize(64)
    assert opened(encoded(palette, "GIF")).tobytes() == palette.convert("RGB").tobytes()
    cmyk = encoded(Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "JPEG", quality=100)
    assert red(cmyk)[0][0] < 5, "full black ink is black"


def test_transparency_is_refused_in_all_its_forms(picture: Image.Image) -> None:
    half = picture.convert("RGBA")
    half.putpixel((3, 2), (9, 9, 9, 254))
    palette = picture.quantize(64)
    used = palette.getpixel((0, 0))
    for data in (
        encoded(half, "PNG"),
        encoded(half, "WEBP", lossless=True),
        encoded(half, "TIFF"),
        encoded(palette, "PNG", transparency=used),
        encoded(palette, "GIF", transparency=used),
        encoded(picture, "PNG", transparency=picture.getpixel((0, 0))),
        encoded(Image.new("LA", (2, 1), (77, 0)), "PNG"),
    ):
        with pytest.raises(ValueError, match="expected an opaque image") as caught:
            opened(data)
        assert str(caught.value) == TRANSPARENT
    with pytest.raises(ValueError, match="a transparent grey value"):
        opened(encoded(Image.fromarray(np.array([[5, 6]], np.uint16)), "PNG", transparency=5))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_moving_image_is_refused(kind: str, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"^expected a still image, found one of several frames or pages$"):
        opened(encoded(picture, kind, save_all=True, append_images=[ImageOps.invert(picture)]))


def test_a_preview_in_a_cameras_jpeg_is_no_second_frame(picture: Image.Image) -> None:
    assert opened(encoded(picture, "MPO", save_all=True, append_images=[picture])).size == picture.size


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (Image.fromarray(np.ones((2, 2), np.float32)), "found the mode F"),
        (Image.fromarray(np.ones((2, 2), np.int32)), "found the mode I"),
        (Image.new("LAB", (2, 2)), "found the mode LAB"),
    ],
)
def test_pixels_of_which_nobody_knows_how_they_look_are_refused(image: Image.Image, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        opened(encoded(image, "TIFF"))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp) deletefile\n"


@pytest.mark.parametrize(
    "data", [POSTSCRIPT, b"", b"\x00" * 200, b"%PDF-1.4\n", encoded(Image.new("L", (2, 2)), "PCX")]
)
def test_only_listed_formats_are_opened(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*command: object, **options: object) -> None:
        raise AssertionError(f"started {command}")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(ValueError, match="cannot identify") as caught:
        opened(data)
    assert str(caught.value) == "cannot identify its format; expected one of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_the_size_is_looked_at_before_any_pixel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    data = encoded(Image.new("L", (300, 200)), kind, **options)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 59_999)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # decoding would call it
    with pytest.raises(ValueError, match=r"^expected at most 59,999 pixels, found 300x200 = 60,000$"):
        opened(data)


def test_a_small_file_of_a_huge_image_takes_no_memory() -> None:
    """21 kB that stand for 17,000 x 17,000 pixels; a process of its own, so that its memory can be limited."""
    code = """
import io, resource
from PIL import Image
from qpatchbench.data.pictures import opened
header = b"\\x89PNG\\r\\n\\x1a\\n"
import struct, zlib
def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
data = header + chunk(b"IHDR", struct.pack(">IIBBBBB", 17000, 17000, 1, 0, 0, 0, 0))
data += chunk(b"IDAT", zlib.compress(bytes(17000 * 2126), 9)) + chunk(b"IEND", b"")
assert len(data) < 50_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    opened(data)
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    message, megabytes = done.stdout.splitlines()
    assert message == "expected at most 50,000,000 pixels, found several times as many"
    assert int(megabytes) < 60


def test_a_pipe_a_device_and_an_oversized_file_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "0.png")
    with pytest.raises(
        DataError, match=r"^pets: cannot read the image .*/a/0.png: expected a regular file, found a pipe$"
    ):
        file_listing("pets", list_images("pets", tmp_path, "p", ["a"]))
    (tmp_path / "a" / "0.png").unlink()
    (tmp_path / "a" / "0.png").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="expected a regular file, found a device"):
        file_listing("pets", list_images("pets", tmp_path, "p", ["a"]))
    (tmp_path / "a" / "0.png").unlink()
    (tmp_path / "a" / "0.png").write_bytes(bytes(2000))
    monkeypatch.setattr("qpatchbench.data.folders.MOST_BYTES", 1000)
    with pytest.raises(DataError, match=r"expected at most 0.001 MB, found 0.0 MB"):
        file_listing("pets", list_images("pets", tmp_path, "p", ["a"]))


@pytest.mark.filterwarnings("ignore")
def test_damage_of_any_kind_is_told_of_the_file(picture: Image.Image) -> None:
    """1,200 damaged files of every format: read, or refused by one of two kinds of error."""
    draws = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"):
        intact = encoded(picture, kind, **({"exif": exif} if kind in ("PNG", "JPEG") else {}))
        for number in range(200):
            data = bytearray(intact)
            if number % 2:
                for _ in range(draws.integers(1, 20)):
                    data[draws.integers(len(data))] = draws.integers(256)
            else:
                del data[draws.integers(len(data)) :]
            try:
                opened(bytes(data))
            except (ValueError, OSError):
                refused += 1
    assert refused > 400
