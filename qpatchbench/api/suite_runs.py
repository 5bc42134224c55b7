"""Suites from Python: read, planned and run as the command line does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qpatchbench.runs.standard_folders import cache_place
from qpatchbench.runs.standard_folders import data_dir as standard_data
from qpatchbench.suite.file.load import load_with_source, typed_suite
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import Source

if TYPE_CHECKING:
    from qpatchbench.api.finished_run import FinishedRun
    from qpatchbench.suite.plan.plan import Plan

# A suite, the path or name of its file, or the data that such a file would hold.
AnySuite: TypeAlias = Suite | Path | str | Mapping[str, Any]


def load_suite(suite: Path | str | Mapping[str, Any], overrides: Sequence[str] = (), scale: str | None = None) -> Suite:
    """A checked suite, from a file, the name of one that comes with the package, or a dict as a file would hold it.

    Args:
        suite: `"mine.yaml"`, `"quickstart"` or `{"suite": "mine", ...}`; paths in a dict are relative to the working
            folder.
        overrides: "key.path=value", applied in order.
        scale: one of the suite's `scales`.

    Raises:
        SuiteError: with every problem, where it is and what was expected.
    """
    return _loaded(suite, overrides, scale)[0]


def plan(suite: AnySuite, *, data_dir: Path | str | None = None, cache: Path | str | None = None) -> Plan:
    """All jobs of a suite in order, each with a key, a label and a cost; decodes the images where it has to.

    Raises:
        SuiteError: the suite is wrong, or its images or weights are not there.
    """
    from qpatchbench.suite.execution.device import device_named
    from qpatchbench.suite.plan.fingerprints import weights_keys
    from qpatchbench.suite.plan.plan import make_plan
    from qpatchbench.suite.store.published_store import opened_store
    from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys

    loaded, source = _loaded(suite)
    folder, address = cache_place(cache)
    bench = Workbench(loaded, opened_store(folder, address), standard_data(_path(data_dir)), device_named("cpu"))
    return make_plan(loaded, loaded_data_keys(bench, source), weights_keys(loaded, source, folder))


def run(
    suite: AnySuite,
    output: Path | str | None = None,
    *,
    data_dir: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "auto",
    fresh: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
) -> FinishedRun:
    """Run a suite: train or load networks, craft patches, transfer them, and write a run folder.

    The same call again resumes: what is finished is never computed twice, whether here or by the command line.

    Args:
        suite: as `load_suite` takes it, or what it returned.
        output: run folder; by default results/<suite>.
        data_dir: where datasets lie; by default $QPATCHBENCH_DATA.
        cache: folder or address where artifacts are kept; by default $QPATCHBENCH_CACHE, or the user's cache folder.
        device: auto, cpu, cuda, cuda:N or mps.
        fresh: compute every job again.
        overwrite: write into a folder that holds files or results of something else.
        progress: whether to show a bar; by default in notebooks and on terminals.

    Returns:
        The run; jobs that failed are in its `errors`.

    Raises:
        SuiteError: the suite is wrong, or its images or weights are not there.
        OutputError: the folder belongs to something else.
        StorageError: a disk refuses; what was finished is kept.
    """
    from qpatchbench.api.executing import executed
    from qpatchbench.api.finished_run import FinishedRun
    from qpatchbench.api.progress_bar import progress_bar
    from qpatchbench.runs.ownership import refuse_foreign

    loaded, source = _loaded(suite)
    folder = _path(output) or Path("results") / loaded.suite
    if not overwrite:
        refuse_foreign(folder, loaded.suite, loaded.limit is not None)
    place = cache_place(cache)
    executed(
        loaded,
        source,
        output=folder,
        data_dir=standard_data(_path(data_dir)),
        cache=place.folder.absolute(),
        address=place.address,
        device=device,
        fresh=fresh,
        display=partial(progress_bar, shown=progress),
    )
    return FinishedRun(folder)


def _loaded(suite: AnySuite, overrides: Sequence[str] = (), scale: str | None = None) -> tuple[Suite, Source]:
    if isinstance(suite, Suite):
        return suite, Source(suite.suite, suite.resolved())
    if isinstance(suite, Mapping):
        return typed_suite(suite, Path.cwd(), overrides, scale)
    return load_with_source(Path(suite), overrides, scale)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)
