"""Patches that were made elsewhere: every kind of file, what it becomes, and what is said of one that is no patch."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.numpy import save_file

from qpatchbench.attacks.external.file import FilePatch
from qpatchbench.errors import PatchFileError
from qpatchbench.runs.foreign.foreign_patch import read_foreign
from qpatchbench.testing import run_checks
from qpatchbench.types import Announced, CraftTask, ImageSet, Targeted, Untargeted
from tests.faults.fuzzing import fuzzed

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
UNIT = COLOURS.astype(np.float32).transpose(2, 0, 1) / 255


def archive(patches: torch.Tensor, targets: torch.Tensor, facts: object) -> bytes:
    """As the authors of ImageNet-Patch wrote theirs: a pickle of tensors in torch's form of before 1.6."""

    class Archived:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> tuple[Any, ...]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                buffer = io.BytesIO()
                torch.save(
                    self.tensor._typed_storage(),  # type: ignore[no-untyped-call]
                    buffer,
                    _use_new_zipfile_serialization=False,
                )
            storage = _Loaded(buffer.getvalue())
            shape: tuple[Any, ...] = (tuple(self.tensor.shape), self.tensor.stride(), False, {})
            return torch._utils._rebuild_tensor_v2, (storage, 0, *shape)

    class _Loaded:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def __reduce__(self) -> tuple[Any, ...]:
            return torch.storage._load_from_bytes, (self.data,)

    return gzip.compress(pickle.dumps((Archived(patches), Archived(targets), facts), protocol=4))


def in_the_middle() -> bytes:
    whole = torch.zeros(2, 3, 20, 20)
    whole[:, :, 7:13, 7:13] = torch.arange(2 * 3 * 36).reshape(2, 3, 6, 6) / 216
    return archive(whole, torch.tensor([4.0, 2.0]), {"patch_size": 6, "target_names": {4: "cup", 2: "sock"}})


def test_a_picture_with_transparency(tmp_path: Path) -> None:
    alpha = np.full((6, 5, 1), 255, np.uint8)
    alpha[0, 0], alpha[5, 4] = 0, 100  # transparent, and less than half covered
    Image.fromarray(np.concatenate([COLOURS, alpha], axis=-1)).save(tmp_path / "a.png")
    found = read_foreign(tmp_path / "a.png")
    np.testing.assert_array_equal(found.textures[0], UNIT)
    assert found.masks.shape == (1, 1, 6, 5)
    assert found.masks.sum() == 28
    squared = found.squared()
    assert squared.textures.shape == (1, 3, 6, 6)
    assert squared.masks.sum() == 28
    np.testing.assert_array_equal(squared.textures[:, :, :, :5], found.textures)


@pytest.mark.parametrize("values", [COLOURS, UNIT, UNIT[None], COLOURS.astype(np.float32)[None]], ids=str)
def test_arrays_with_colours_first_or_last(values: np.ndarray[Any, Any], tmp_path: Path) -> None:
    white = 255.0 if values.dtype == np.float32 and values.max() > 1 else None
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    np.savez_compressed(tmp_path / "a.npz", patch=values, mask=np.eye(6, 5), target=7)
    save_file({"delta": np.ascontiguousarray(values)}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.npz", "a.safetensors"):
        found = read_foreign(tmp_path / name, white=white)
        np.testing.assert_allclose(found.textures[0], UNIT, atol=1e-7)
        assert found.masks.sum() == (5 if name == "a.npz" else 30)
        assert found.targets == ((7,) if name == "a.npz" else ())


def test_a_second_file_is_the_mask(tmp_path: Path) -> None:
    np.save(tmp_path / "patch.npy", UNIT)
    np.save(tmp_path / "mask.npy", np.repeat(np.eye(6, 5)[None], 3, axis=0))
    Image.fromarray((np.eye(6, 5) * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    for name in ("mask.npy", "mask.png"):
        assert (read_foreign(tmp_path / "patch.npy", tmp_path / name).masks[0, 0] == np.eye(6, 5)).all()


def test_the_archive_of_imagenet_patch_is_read_as_data(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(in_the_middle())
    found = read_foreign(tmp_path / "a.gz")
    assert found.targets == (4, 2)
    np.testing.assert_allclose(found.textures.ravel(), np.arange(216) / 216, atol=1e-7)
    assert read_from(tmp_path / "a.gz").goals(10) == (Targeted(4), Targeted(2))


def read_from(path: Path, **fields: object) -> FilePatch:
    return FilePatch.model_validate({"name": "file", "file": str(path), **fields})


def task(attack: FilePatch, side: int = 16) -> CraftTask:
    nothing = ImageSet(torch.empty(0, 3, side, side, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    return CraftTask((lambda images: images,), attack.goals(10), nothing, torch.Generator())


def test_it_is_what_the_file_holds_at_the_size_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(in_the_middle())
    own = read_from(tmp_path / "a.gz", targets=(2,))
    assert own.size.side(16) == 6
    patch = own.craft(task(own))
    np.testing.assert_allclose(patch.textures.numpy().ravel(), np.arange(108, 216) / 216, atol=1e-7)
    smaller = read_from(tmp_path / "a.gz", targets=(2,), size=3)
    patch = smaller.craft(task(smaller))
    assert patch.textures.shape == (1, 3, 3, 3)
    assert patch.masks.eq(1).all()
    assert abs(float(patch.textures.mean()) - 161.5 / 216) < 1e-3
    assert smaller.identity()["content"] == own.identity()["content"]


def test_it_keeps_the_promises_of_an_attack(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", patch=np.stack([UNIT[:, :4, :4], UNIT[:, 1:5, :4]]))
    attack = read_from(tmp_path / "a.npz", targets=(0, 1))
    assert [result for result in run_checks(attack) if result.verdict == "failed"] == []


def test_origin_and_place_are_no_part_of_the_identity(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, UNIT)
    first = read_from(tmp_path / "a.npy", origin="me", licence="CC0")
    assert first.identity() == read_from(tmp_path / "b.npy").identity()
    assert first.passport == {"origin": "me", "licence": "CC0"}
    np.save(tmp_path / "b.npy", UNIT[:, ::-1])
    assert first.identity() != read_from(tmp_path / "b.npy").identity()


class Touch:
    """What a stranger's pickle may hold."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def objects(path: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(path)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        (
            "a.npy",
            lambda path: pickle.dumps(Touch(path)),
            "expected an npy file, found a pickle, which is not read, since reading one runs code",
        ),
        ("a.npy", objects, "expected numbers, found Python objects, which are a pickle and are not read"),
        ("a.npz", lambda path: pickle.dumps(Touch(path)), "expected an npz file, found a pickle, which is not read, "),
        ("a.npz", lambda path: zipped(patch=objects(path)), "expected numbers, found Python objects, which are a"),
        ("a.png", lambda path: pickle.dumps(Touch(path)), "expected a PNG file, found another"),
        ("a.safetensors", lambda path: pickle.dumps(Touch(path)), "expected a safetensors file, found one that cannot"),
        (
            "a.gz",
            lambda path: gzip.compress(pickle.dumps((Touch(path), 1))),
            "expected plain data and tensors, found a call of posix.mkdir; nothing of it was run",
        ),
        ("a.gz", lambda path: gzip.compress(pickle.dumps([1, 2])), "expected patches, targets and facts, found list"),
        (
            "a.gz",
            lambda path: b"no archive",
            "the gzipped archive of ImageNet-Patch, found a file that is none",
        ),
        ("a.npy", lambda path: header("(3, 100000, 1000000)"), "expected 1,200,000,000,000 bytes for float32"),
        ("a.npz", lambda path: zipped(x=b"\0" * 200_000_001), "expected at most 200,000,000 bytes of an array, found"),
        ("a.npz", lambda path: zipped(x=b"", mask=b""), "expected an npy file, found something else"),
        ("a.pt", lambda path: b"", "expected a name that ends in .gz, .npy, .npz, .png, .safetensors, found .pt"),
    ],
)
def test_a_file_that_is_no_patch(name: str, written: Callable[[Path], bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(written(tmp_path / "touched"))
    with pytest.raises(PatchFileError) as caught:
        read_foreign(tmp_path / name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (UNIT * 300, "expected pixels in 0..1, found 0..291.765"),
        (UNIT * 200, "; say white: 255 if that is its brightest value"),
        (UNIT * np.nan, "expected finite pixels, found NaN or infinity"),
        (UNIT[:2], "expected 3 colours, first or last, found the shape (2, 6, 5)"),
        (UNIT[0], "expected a patch (3, h, w) or (h, w, 3), or several, found the shape (6, 5)"),
        (UNIT.astype(complex), "expected numbers, found complex128"),
    ],
)
def test_arrays_that_are_no_patch(values: np.ndarray[Any, Any], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(PatchFileError) as caught:
        read_foreign(tmp_path / "a.npy")
    assert message in str(caught.value)


def test_a_patch_for_each_image_is_refused(tmp_path: Path) -> None:
    save_file(
        {"textures": np.zeros((4, 3, 2, 2), np.uint8)}, tmp_path / "a.safetensors", {"goals": json.dumps(["1", "2"])}
    )
    with pytest.raises(PatchFileError, match="expected a patch for each of 2 goals, found 4"):
        read_foreign(tmp_path / "a.safetensors")


def test_a_missing_file_names_those_there(tmp_path: Path) -> None:
    np.save(tmp_path / "patch.npy", UNIT)
    with pytest.raises(
        ValidationError, match=r"expected a patch file, found none at .*pach.npy. Patches there: patch.npy."
    ):
        read_from(tmp_path / "pach.npy")


def test_targets_and_patches_agree(tmp_path: Path) -> None:
    known = Announced(side=16, classes=10, calibration=8, craft=8)
    np.savez(tmp_path / "two.npz", patch=np.stack([UNIT, UNIT]))
    two = read_from(tmp_path / "two.npz")
    assert two.goals(10) == (Untargeted(),)
    assert [*two.misfits(known)] == [
        ("targets", "expected a target for each of the 2 patches in two.npz, in their order, found 1: untargeted")
    ]
    (tmp_path / "a.gz").write_bytes(in_the_middle())
    other = read_from(tmp_path / "a.gz", targets=(2, 3))
    assert [*other.misfits(known)] == [("targets", "expected classes that a.gz has a patch for, 4, 2, found 3")]


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz", "a.safetensors", "a.gz"])
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", UNIT)
    np.savez(tmp_path / "a.npz", patch=UNIT, mask=np.eye(6, 5))
    save_file({"patch": UNIT}, tmp_path / "a.safetensors")
    (tmp_path / "a.gz").write_bytes(in_the_middle())
    data, draws = (tmp_path / name).read_bytes(), random.Random(name)
    refused = 0
    for _ in range(200):
        damaged = gzip.compress(fuzzed(gzip.decompress(data), draws)) if name == "a.gz" else fuzzed(data, draws)
        (tmp_path / name).write_bytes(damaged)
        try:
            read_foreign(tmp_path / name)
        except PatchFileError:
            refused += 1
    assert refused > 0
