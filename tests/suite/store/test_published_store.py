"""Artifacts at an address: fetched by a machine that has none, held against their hashes, never half of one."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from qpatchbench.errors import ArtifactError, QPatchBenchError, StorageError
from qpatchbench.runs.standard_folders import cache_place
from qpatchbench.suite.store.address import Address
from qpatchbench.suite.store.published_store import PublishedStore, opened_store
from qpatchbench.suite.store.store import Artifact, Store

fsspec = pytest.importorskip("fsspec", reason="torch brings it")

Machines: TypeAlias = Callable[[str], PublishedStore]

KEY, OTHER = "ab" * 16, "cd" * 16


def artifact(value: float, count: int = 1000) -> Artifact:
    return Artifact({"weight": np.full(count, value, np.float32)}, {"value": value})


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty address."""
    if request.param == "file":
        yield f"file://{tmp_path / 'shared'}"
        return
    files = fsspec.filesystem("memory")
    yield "memory://shared/artifacts"
    if files.exists("/shared"):
        files.rm("/shared", recursive=True)


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Machines:
    """Stores of several machines at that address, each with a folder of its own."""

    def of(name: str) -> PublishedStore:
        return PublishedStore(tmp_path / name, Address(url))

    return of


def objects(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(files.find(root))


def overwrite(url: str, ending: str, data: bytes) -> None:
    """Put something else into the only object with that ending."""
    files, _ = fsspec.core.url_to_fs(url)
    (path,) = [path for path in objects(url) if path.endswith(ending)]
    files.pipe_file(path, data)


def value_of(store: Store, key: str = KEY) -> float:
    found = store.read("train", key)
    assert (found.arrays["weight"] == found.facts["value"]).all()
    return float(found.facts["value"])


def test_another_machine_finds_what_one_has_made(machine: Machines, url: str) -> None:
    one, two = machine("one"), machine("two")
    assert not two.has("train", KEY)
    one.write("train", KEY, artifact(1.0))
    assert len(objects(url)) == 2
    new = machine("three")
    assert new.has("train", KEY)
    assert not new.has("train", OTHER)
    assert not Store(new.root).has("train", KEY), "nothing is fetched before it is asked for"
    assert new.facts("train", KEY) == {"value": 1.0}
    assert value_of(new) == 1.0
    assert new.digest("train", KEY) == one.digest("train", KEY)
    assert value_of(Store(new.root)) == 1.0
    assert value_of(two) == 1.0, "a listing may be old, a reading is not"


def test_the_first_that_published_wins_and_the_other_takes_over_its_bytes(machine: Machines, url: str) -> None:
    one, two = machine("one"), machine("two")
    one.write("train", KEY, artifact(1.0))
    before = objects(url)
    two.write("train", KEY, artifact(2.0))
    assert objects(url) == before
    assert [value_of(store) for store in (one, two, machine("three"))] == [1.0, 1.0, 1.0]


def test_of_two_at_the_same_moment_one_wins(machine: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = machine("one"), machine("two")
    monkeypatch.setattr(two._remote, "get_mark", lambda kind, key: None)  # it looks before the other has published
    one.write("train", KEY, artifact(1.0))
    monkeypatch.setattr(two, "_fetch", lambda kind, key: True)
    two.write("train", KEY, artifact(2.0))
    monkeypatch.undo()
    assert value_of(machine("three")) == 1.0
    assert value_of(two) == 1.0


@pytest.mark.parametrize("ending", [".safetensors", ".json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_damaged_or_half_there_is_refused_and_made_anew(
    machine: Machines, url: str, ending: str, share: float
) -> None:
    machine("one").write("train", KEY, artifact(1.0))
    files, _ = fsspec.core.url_to_fs(url)
    (path,) = [path for path in objects(url) if path.endswith(ending)]
    whole = files.cat_file(path)
    overwrite(url, ending, whole[: int(share * len(whole))])
    two = machine("two")
    with pytest.raises(ArtifactError):
        two.read("train", KEY)
    assert not Store(two.root).has("train", KEY)
    assert two.facts("train", KEY) == {}
    two.write("train", KEY, artifact(2.0))  # as a run does that finds it damaged
    assert value_of(machine("three")) == 2.0


def test_facts_that_are_not_those_that_were_written_are_refused(machine: Machines, url: str) -> None:
    machine("one").write("train", KEY, artifact(1.0))
    files, _ = fsspec.core.url_to_fs(url)
    (path,) = [path for path in objects(url) if path.endswith(".json")]
    mark = json.loads(files.cat_file(path))
    overwrite(url, ".json", json.dumps({**mark, "facts": {"value": 3.0}}).encode())
    two = machine("two")
    with pytest.raises(ArtifactError, match="its facts are not those that were written"):
        two.read("train", KEY)
    assert two.facts("train", KEY) == {}


def test_arrays_without_their_mark_are_nothing(machine: Machines, url: str) -> None:
    machine("one").write("train", KEY, artifact(1.0))
    files, _ = fsspec.core.url_to_fs(url)
    (path,) = [path for path in objects(url) if path.endswith(".json")]
    files.rm_file(path)  # a machine that died between the two
    two = machine("two")
    assert not two.has("train", KEY)
    two.write("train", KEY, artifact(2.0))
    assert value_of(machine("three")) == 2.0


def test_a_damaged_copy_is_fetched_again(machine: Machines) -> None:
    one = machine("one")
    one.write("train", KEY, artifact(1.0))
    one.path("train", KEY).write_bytes(b"half")
    assert value_of(one) == 1.0


def test_what_is_removed_is_gone_everywhere(machine: Machines, url: str) -> None:
    one = machine("one")
    one.write("train", KEY, artifact(1.0))
    one.remove("train", KEY)
    one.remove("train", KEY)
    assert objects(url) == []
    assert not one.has("train", KEY)
    assert not machine("two").has("train", KEY)


def test_snapshots_stay_where_they_are(machine: Machines, url: str) -> None:
    one = machine("one")
    one.write("snapshot", KEY, artifact(1.0))
    assert objects(url) == []
    assert one.has("snapshot", KEY)
    assert one.read("snapshot", KEY).facts == {"value": 1.0}
    assert not machine("two").has("snapshot", KEY)
    one.remove("snapshot", KEY)
    assert not one.has("snapshot", KEY)


def test_an_address_that_refuses_ends_the_run(machine: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("one")

    def refuse(*arguments: object, **options: object) -> None:
        raise TimeoutError("no answer")

    for name in ("cat_file", "pipe_file", "find"):
        monkeypatch.setattr(type(one._remote._files), name, refuse)
    with pytest.raises(StorageError, match="the address refuses: TimeoutError: no answer"):
        one.has("train", KEY)
    with pytest.raises(StorageError, match="the address refuses: TimeoutError: no answer"):
        one.read("train", KEY)


def published(url: str, folder: str, value: float, count: int) -> None:
    store = opened_store(Path(folder), url)
    for number in range(count):
        store.write("train", f"{number:032x}", artifact(value, 20_000))


def test_processes_that_publish_the_same_jobs_leave_whole_ones(tmp_path: Path) -> None:
    url, count = f"file://{tmp_path / 'shared'}", 20
    context = multiprocessing.get_context("spawn")
    members = [
        context.Process(target=published, args=(url, str(tmp_path / f"machine {value}"), value, count))
        for value in (1.0, 2.0)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert [member.exitcode for member in members] == [0, 0]
    new = opened_store(tmp_path / "new", url)
    found = [value_of(new, f"{number:032x}") for number in range(count)]
    assert set(found) <= {1.0, 2.0}
    for value in (1.0, 2.0):
        own = Store(tmp_path / f"machine {value}")
        assert [value_of(own, f"{number:032x}") for number in range(count)] == found


def test_an_address_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QPATCHBENCH_LOCAL", raising=False)
    monkeypatch.setenv("QPATCHBENCH_CACHE", "s3://bucket/x")
    folder, address = cache_place()
    assert address == "s3://bucket/x"
    assert folder.name == cache_place("s3://bucket/x").folder.name != cache_place("s3://bucket/y").folder.name
    monkeypatch.setenv("QPATCHBENCH_LOCAL", str(tmp_path))
    assert cache_place() == (tmp_path, "s3://bucket/x")
    assert cache_place(tmp_path / "given") == (tmp_path / "given", None)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(QPatchBenchError, match="nowhere://x: expected an address that fsspec reads, found: "):
        opened_store(tmp_path, "nowhere://x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(QPatchBenchError, match=r"expected fsspec, found none; pip install 'qpatchbench\[store\]'"):
        opened_store(tmp_path, "memory://x")
