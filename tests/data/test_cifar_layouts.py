"""CIFAR from each of its layouts, handmade and tiny, and refusals."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torchvision
from PIL import Image

from qpatchbench.data import cifar
from qpatchbench.data.base import Decoding, Splits
from qpatchbench.data.cifar import CIFAR10, CIFAR10_CLASSES, CIFAR100, CIFAR100_CLASSES, Cifar10, Cifar100
from qpatchbench.errors import DataError

Pixels = npt.NDArray[np.uint8]
RECORDS = 20
FIELDS = {"calibration_images": 4, "craft_images": 10}


def make_batch(seed: int, classes: int) -> tuple[Pixels, list[int]]:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (RECORDS, 3072), dtype=np.uint8)
    return pixels, [(7 * i) % classes for i in range(RECORDS)]


def python2_pickle(pixels: Pixels, labels: list[int], key: str) -> bytes:
    """A batch as Python 2 and its numpy wrote it: raw 'string' opcodes, a call of _reconstruct, long labels."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    raw = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01"
        + b"M"
        + struct.pack("<H", len(pixels))
        + b"M\x00\x0c\x86cnumpy\ndtype\n"
        + text("u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )
    return (
        b"\x80\x02}q\x01("
        + text("data")
        + array
        + text(key)
        + b"]q\x07("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"e"
        + text("batch_label")
        + text("training batch 1 of 5")
        + text("filenames")
        + b"]("
        + text("a.png")
        + text("b.png")
        + b"e"
        + b"u."
    )


def python3_pickle(pixels: Pixels, labels: list[int], key: str) -> bytes:
    return pickle.dumps({"coarse_labels": [1] * len(labels), key: labels, "data": pixels}, protocol=4)


def write_python(root: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Pixels, list[int], str], bytes]) -> None:
    for cls, published, classes in ((Cifar10, CIFAR10, 10), (Cifar100, CIFAR100, 100)):
        files = []
        for seed, file in enumerate(published.python_files):
            data = write(*make_batch(seed, classes), published.label_key)
            path = root / published.python_folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            files.append(replace(file, records=RECORDS, md5=hashlib.md5(data).hexdigest()))
        monkeypatch.setattr(cls, "published", replace(published, python_files=tuple(files)))


def write_binary(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cls, published, classes in ((Cifar10, CIFAR10, 10), (Cifar100, CIFAR100, 100)):
        for seed, file in enumerate(published.binary_files):
            pixels, labels = make_batch(seed, classes)
            coarse = b"\x01" * (published.label_bytes - 1)
            path = root / published.binary_folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(coarse + bytes([y]) + x.tobytes() for x, y in zip(pixels, labels, strict=True)))
        files = tuple(replace(file, records=RECORDS) for file in published.binary_files)
        monkeypatch.setattr(cls, "published", replace(published, binary_files=files))


def load(source: Cifar10 | Cifar100, data_dir: Path, cache: Path) -> Splits:
    return source.load(data_dir, cache, Decoding(), 10_000)


def all_images(splits: Splits) -> dict[str, tuple[int, bytes]]:
    return {
        name: (int(label), pixels.numpy().tobytes())
        for part in (splits.train, splits.calibration, splits.craft, splits.evaluation)
        for pixels, label, name in zip(part.pixels, part.labels, part.ids, strict=True)
    }


def expected_images(train_files: int, classes: int) -> dict[str, tuple[int, bytes]]:
    expected = {}
    for number in range(train_files):
        pixels, labels = make_batch(number, classes)
        for i in range(RECORDS):
            expected[f"train/{number * RECORDS + i:05d}"] = (labels[i], pixels[i].tobytes())
    pixels, labels = make_batch(train_files, classes)
    return expected | {f"test/{i:05d}": (labels[i], pixels[i].tobytes()) for i in range(RECORDS)}


@pytest.mark.parametrize("layout", ["python 2", "python 3", "binary"])
@pytest.mark.parametrize(
    ("source", "train_files"), [(Cifar10(**FIELDS), 5), (Cifar100(**FIELDS), 1)], ids=["10", "100"]
)
def test_published_layouts_hold_the_same_images(
    layout: str, source: Cifar10 | Cifar100, train_files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "binary":
        write_binary(tmp_path, monkeypatch)
    else:
        write_python(tmp_path, monkeypatch, python2_pickle if layout == "python 2" else python3_pickle)
    splits = load(source, tmp_path, tmp_path / "cache")
    assert all_images(splits) == expected_images(train_files, source.num_classes)
    assert splits.evaluation.pixels.shape == (RECORDS, 3, 32, 32)
    assert len(splits.class_names) == source.num_classes


def test_handmade_python2_file_is_what_unpickling_would_give() -> None:
    pixels, labels = make_batch(0, 10)
    loaded = pickle.loads(python2_pickle(pixels, labels, "labels"), encoding="latin1")
    assert (loaded["data"] == pixels.reshape(-1)[: RECORDS * 3072].reshape(RECORDS, 3072)).all()
    assert loaded["labels"] == labels


def test_checksums_are_torchvisions() -> None:
    for reference, ours in ((torchvision.datasets.CIFAR10, CIFAR10), (torchvision.datasets.CIFAR100, CIFAR100)):
        assert reference.base_folder == ours.python_folder
        theirs = [tuple(pair) for pair in reference.train_list + reference.test_list]
        assert theirs == [(file.name, file.md5) for file in ours.python_files]
        assert sum(file.records for file in ours.python_files) == sum(f.records for f in ours.binary_files) == 60_000


def test_class_names_are_complete_and_sorted() -> None:
    assert len(CIFAR10_CLASSES) == 10
    assert len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR10_CLASSES) == sorted(CIFAR10_CLASSES)
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "boom"))


def test_malicious_pickle_is_refused_by_its_checksum_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_python(tmp_path, monkeypatch, python2_pickle)
    mark = tmp_path / "mark"
    (tmp_path / CIFAR10.python_folder / "data_batch_3").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(
        DataError, match=r"data_batch_3: expected the published file with md5 .*, found md5 .* not read"
    ):
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")
    assert not mark.exists()


def test_malicious_pickle_is_not_run_even_with_the_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    write_python(tmp_path, monkeypatch, lambda *_: pickle.dumps(Bomb(mark)))
    with pytest.raises(DataError, match=r"data_batch_1: expected 20 images of 3072 bytes, found \d+ bytes"):
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")
    assert not mark.exists()

    def armed(pixels: Pixels, labels: list[int], key: str) -> bytes:
        return pickle.dumps({"data": pixels, key: labels, "bomb": Bomb(mark)}, protocol=2)

    write_python(tmp_path, monkeypatch, armed)
    assert len(load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache").evaluation) == RECORDS
    assert not mark.exists()
    pickle.loads(armed(*make_batch(0, 10), "labels"))
    assert mark.exists()  # the bomb is a live one


@pytest.mark.parametrize(("data", "message"), [
    (b"garbage", "expected a file of the CIFAR python version, found"),
    (python2_pickle(make_batch(0, 10)[0], [3] * 19, "labels"), r"20 labels in 0..9, found 19, the highest 3"),
    (python2_pickle(make_batch(0, 10)[0], [10] * 20, "labels"), r"20 labels in 0..9, found 20, the highest 10"),
    (python2_pickle(make_batch(0, 10)[0], [3] * 20, "names"), r"found 0, the highest None"),
])  # fmt: skip
def test_python_file_with_the_wrong_content(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_python(tmp_path, monkeypatch, lambda *_: data)
    with pytest.raises(DataError, match=f"data_batch_1: .*{message}"):
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")


def test_incomplete_or_cut_binary_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_binary(tmp_path, monkeypatch)
    path = tmp_path / CIFAR10.binary_folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    with pytest.raises(DataError, match=r"data_batch_2.bin: expected 20 records of 3073 bytes, found 58387 bytes"):
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")
    path.unlink()
    with pytest.raises(
        DataError, match=r"cifar10: .*cifar-10-batches-bin is incomplete, expected also data_batch_2.bin"
    ):
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")


def write_folders(root: Path, classes: tuple[str, ...], images: int = 3) -> None:
    for pool, seed in (("train", 0), ("test", 1)):
        for name in classes:
            (root / pool / name).mkdir(parents=True)
            shade = CIFAR10_CLASSES.index(name) if name in CIFAR10_CLASSES else 11
            for index in range(images):
                pixels = np.full((32, 32, 3), 20 * shade + 5 * index + seed, dtype=np.uint8)
                Image.fromarray(pixels).save(root / pool / name / f"{index}.png")


@pytest.mark.parametrize("place", ["", "cifar10", "cifar10-jpeg"])
def test_class_folders_in_any_order_map_to_the_published_order(place: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "data" / place, CIFAR10_CLASSES[::-1])
    splits = load(Cifar10(**FIELDS), tmp_path / "data", tmp_path / "cache")
    assert splits.class_names == CIFAR10_CLASSES
    for part in (splits.train, splits.craft, splits.evaluation):
        for pixels, label, name in zip(part.pixels, part.labels.tolist(), part.ids, strict=True):
            assert name.split("/")[1] == CIFAR10_CLASSES[label]
            assert int(pixels[0, 0, 0]) // 20 == label


def test_other_peoples_train_and_test_folders_do_not_count(tmp_path: Path) -> None:
    write_folders(tmp_path / "data", ("wolf", "sparrow"))
    write_folders(tmp_path / "data" / "cifar10", CIFAR10_CLASSES)
    assert len(load(Cifar10(**FIELDS), tmp_path / "data", tmp_path / "cache").evaluation) == 30


def test_missing_and_extra_class_folders_are_named(tmp_path: Path) -> None:
    write_folders(tmp_path / "cifar10", (*CIFAR10_CLASSES[:-1], "trucks"))
    with pytest.raises(DataError) as caught:
        load(Cifar10(**FIELDS), tmp_path, tmp_path / "cache")
    message = str(caught.value)
    assert "unknown class folder 'trucks'. Did you mean: truck?" in message
    assert "missing class folder 'truck'. Is it the folder trucks?" in message


def test_absent_cifar_says_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(Cifar100(**FIELDS), tmp_path, tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith("cifar100: the dataset is not there. Looked for:\n")
    for root in (tmp_path, tmp_path / "cifar100"):
        for layout in ("cifar-100-python", "cifar-100-binary", "train/<class> and test/<class>"):
            assert f"  {root / layout}\n" in message
    for hint in (f"{tmp_path}/cifar100-*", "--data-dir", "QPATCHBENCH_DATA", "download: true", "32x32"):
        assert hint in message


def test_download_is_asked_for_only_when_wanted_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def fake_download(root: Path, download: bool) -> None:
        assert download
        calls.append(root)
        write_folders(root, CIFAR10_CLASSES)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fake_download)
    with pytest.raises(DataError, match="is not there"):
        load(Cifar10(**FIELDS), tmp_path / "data", tmp_path / "cache")
    source = Cifar10(**FIELDS, download=True)
    first = load(source, tmp_path / "data", tmp_path / "cache")
    assert load(source, tmp_path / "data", tmp_path / "cache").fingerprint == first.fingerprint
    assert calls == [tmp_path / "data"]
    assert source.identity() == Cifar10(**FIELDS).identity()


def test_failed_download_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(root: Path, download: bool) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    with pytest.raises(DataError, match=r"cifar10: torchvision cannot download it to .*: no route to host"):
        load(cifar.Cifar10(**FIELDS, download=True), tmp_path, tmp_path / "cache")
