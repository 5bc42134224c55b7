"""The store: what was written is read back or refused, and a refused write leaves what was there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from qpatchbench.errors import ArtifactError, StorageError
from qpatchbench.runs.files import write_atomically
from qpatchbench.suite.store.store import Artifact, Store, key_of

KEY = "ab" * 16
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "codes": np.array([[-1, 2]], dtype=np.int8),
    "scalar": np.array(3, dtype=np.int64),
    "empty": np.empty((0, 4), dtype=np.uint8),
}
FACTS = {"log": [{"loss": 0.1}], "goals": ("1", "2"), "text": "größer", "nothing": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "cache")
    made.write("patch", KEY, Artifact(ARRAYS, FACTS))
    return made


def files(store: Store) -> dict[str, Path]:
    folder = store.root / "patch" / "ab"
    return {ending: folder / f"{KEY}.{ending}" for ending in ("json", "safetensors")}


def test_what_is_written_is_read_back_bit_for_bit(store: Store) -> None:
    found = store.read("patch", KEY)
    assert set(found.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()
    assert found.facts == json.loads(json.dumps(FACTS))
    assert store.facts("patch", KEY) == found.facts


def test_a_view_is_stored_as_it_reads(store: Store) -> None:
    turned = ARRAYS["weight"].T
    store.write("patch", "cd" * 16, Artifact({"turned": turned}, {}))
    np.testing.assert_array_equal(store.read("patch", "cd" * 16).arrays["turned"], turned)


def test_facts_with_numbers_as_keys_survive(store: Store) -> None:
    store.write("patch", "cd" * 16, Artifact({}, {"by_bits": {2: 0.5, 10: 0.25}}))
    assert store.read("patch", "cd" * 16).facts == {"by_bits": {"2": 0.5, "10": 0.25}}


def test_kinds_and_keys_are_apart(store: Store) -> None:
    assert store.has("patch", KEY)
    assert not store.has("cell", KEY)
    assert not store.has("patch", "ac" * 16)
    assert store.facts("cell", KEY) == {}
    with pytest.raises(ArtifactError, match="expected a finished cell artifact, found FileNotFoundError"):
        store.read("cell", KEY)


def test_a_removed_artifact_is_gone_and_removing_it_again_is_nothing(store: Store) -> None:
    store.remove("patch", KEY)
    assert not store.has("patch", KEY)
    store.remove("patch", KEY)


def test_an_artifact_without_the_hash_of_its_facts_is_refused(store: Store) -> None:
    content = json.loads(files(store)["json"].read_text())
    del content["facts_sha256"]
    files(store)["json"].write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="its facts are not those that were written"):
        store.read("patch", KEY)


def flip_data(json_file: Path, data_file: Path) -> None:
    data = bytearray(data_file.read_bytes())
    data[-1] ^= 1
    data_file.write_bytes(data)


def truncate_data(json_file: Path, data_file: Path) -> None:
    data_file.write_bytes(data_file.read_bytes()[:-5])


def empty_data(json_file: Path, data_file: Path) -> None:
    data_file.write_bytes(b"")


def change_a_fact(json_file: Path, data_file: Path) -> None:
    json_file.write_text(json_file.read_text().replace("0.1", "0.2"))


def truncate_json(json_file: Path, data_file: Path) -> None:
    json_file.write_bytes(json_file.read_bytes()[:-5])


def binary_json(json_file: Path, data_file: Path) -> None:
    json_file.write_bytes(b"\xff\xfe\x00")


def list_json(json_file: Path, data_file: Path) -> None:
    json_file.write_text("[]")


def no_facts(json_file: Path, data_file: Path) -> None:
    content = json.loads(json_file.read_text())
    del content["facts"]
    json_file.write_text(json.dumps(content))


def not_tensors(json_file: Path, data_file: Path) -> None:
    import hashlib

    content = json.loads(json_file.read_text())
    data_file.write_bytes(b"no safetensors")
    content["sha256"] = hashlib.sha256(b"no safetensors").hexdigest()
    json_file.write_text(json.dumps(content))


def other_data(json_file: Path, data_file: Path) -> None:
    data_file.write_bytes(save({"weight": np.zeros(3, np.float32)}))


DAMAGES = [
    flip_data,
    truncate_data,
    empty_data,
    change_a_fact,
    truncate_json,
    binary_json,
    list_json,
    no_facts,
    not_tensors,
    other_data,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(store: Store, damage: Callable[[Path, Path], None]) -> None:
    damage(files(store)["json"], files(store)["safetensors"])
    with pytest.raises(ArtifactError, match=f"{KEY}.*(damaged patch artifact|expected a finished patch artifact)"):
        store.read("patch", KEY)


@pytest.mark.parametrize("half", ["json", "safetensors"])
def test_half_an_artifact_is_none(store: Store, half: str) -> None:
    files(store)[half].unlink()
    assert not store.has("patch", KEY)
    with pytest.raises(ArtifactError, match="expected a finished patch"):
        store.read("patch", KEY)


def test_the_mark_of_completion_is_written_last_and_removed_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace = os.replace

    def noting(source: str, target: Path) -> None:
        written.append(Path(target).suffix)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noting)
    store.write("patch", "cd" * 16, Artifact({}, {}))
    assert written == [".safetensors", ".json"]

    removed: list[str] = []
    unlink = Path.unlink

    def noting_too(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.suffix)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noting_too)
    store.remove("patch", "cd" * 16)
    assert removed == [".json", ".safetensors"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refused_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StorageError, match=f"file.json: cannot be written: {os.strerror(code)}") as caught:
        write_atomically(path, b"new")
    assert "QPATCHBENCH_CACHE" in str(caught.value)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"], "a temporary file is left behind"


def test_a_disk_that_fills_between_the_two_files_leaves_no_artifact(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync = os.fsync

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(StorageError):
        store.write("patch", "cd" * 16, Artifact(ARRAYS, FACTS))
    assert not store.has("patch", "cd" * 16)
    assert store.read("patch", KEY).facts["log"] == [{"loss": 0.1}]


def test_a_file_in_the_place_of_the_cache_is_an_error_of_storage(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file")
    store = Store(blocked)
    assert not store.has("patch", KEY)
    store.remove("patch", KEY)
    with pytest.raises(StorageError, match=r"cannot be written: (Not a directory|File exists)"):
        store.write("patch", KEY, Artifact(ARRAYS, FACTS))
    assert blocked.read_text() == "a file"


def test_the_system_refuses_for_real(tmp_path: Path) -> None:
    """A limit on the size of files, as a full quota would be: small artifacts are written, a large one is not."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from qpatchbench.errors import StorageError
from qpatchbench.suite.store.store import Artifact, Store

store = Store(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
store.write("patch", "aa" * 16, Artifact({"small": np.zeros(10)}, {}))
try:
    store.write("patch", "bb" * 16, Artifact({"large": np.zeros(10_000)}, {}))
except StorageError as error:
    print(error)
print(store.has("patch", "aa" * 16), store.has("patch", "bb" * 16))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    message, state = result.stdout.splitlines()
    assert "cannot be written: File too large" in message
    assert state == "True False"
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json", ".safetensors"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_key_is_of_the_facts_and_not_of_their_order() -> None:
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": [1, 2]}) != key_of({"a": [2, 1]})
    assert key_of({"a": 1}) != key_of({"a": "1"})
    assert key_of({"a": None}) != key_of({})
    assert len(key_of({})) == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_key_is_never_made_of_what_has_no_equal(value: Any) -> None:  # noqa: ANN401 (anything that is no JSON)
    with pytest.raises((ValueError, TypeError)):
        key_of({"a": value})


@pytest.mark.parametrize("change", [{"key": "cd" * 16}, {"kind": "cell"}, {"facts_sha256": None}])
def test_an_artifact_in_the_place_of_another_is_refused(store: Store, change: dict[str, Any]) -> None:
    path = files(store)["json"]
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match="damaged patch artifact: "):
        store.read("patch", KEY)
    assert store.facts("patch", KEY) == {}


def test_swapped_artifacts_are_told(store: Store) -> None:
    other = "cd" * 16
    store.write("patch", other, Artifact({}, {}))
    for ending, path in files(store).items():
        path.write_bytes((store.root / "patch" / "cd" / f"{other}.{ending}").read_bytes())
    with pytest.raises(ArtifactError) as told:
        store.read("patch", KEY)
    path = files(store)["json"]
    assert str(told.value) == f"{path}: damaged patch artifact: expected patch {KEY}, found patch {other}"
