"""From a suite file to a typed suite; every error at once, each with its line and column."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qpatchbench.component import Component
from qpatchbench.errors import QPatchBenchError, SuiteError
from qpatchbench.registry import REGISTRIES, Registry
from qpatchbench.suite.file.consistency import incoherences
from qpatchbench.suite.file.kinds import mistyped
from qpatchbench.suite.file.overrides import override, scale_down
from qpatchbench.suite.file.pydantic_errors import explained, shown
from qpatchbench.suite.file.schema import COMPONENT_PLACES, Suite
from qpatchbench.suite.file.source import KeyPath, Problem, Source, read_source
from qpatchbench.suite.named.places import beside, placed
from qpatchbench.suite.named.stored_patches import stored_patches


def load_suite(path: Path, overrides: Sequence[str] = (), scale: str | None = None) -> Suite:
    """Read, override and check a suite file.

    Args:
        path: of the YAML file.
        overrides: "key.path=value", applied in order.
        scale: one of the suite's `scales`, applied before the overrides.

    Raises:
        SuiteError: with every problem as "file:line:column: key: what was expected, what was found".
    """
    return load_with_source(path, overrides, scale)[0]


def scales_of(path: Path) -> tuple[str, ...]:
    """Names of the scales that a suite file lists."""
    scales = read_source(path).data.get("scales")
    return tuple(scales) if isinstance(scales, dict) else ()


def load_with_source(path: Path, overrides: Sequence[str] = (), scale: str | None = None) -> tuple[Suite, Source]:
    """Like `load_suite`; the source tells later errors, such as a missing dataset, where they stand."""
    return _changed(read_source(path), overrides, scale)


def typed_suite(
    data: Mapping[str, Any], folder: Path, overrides: Sequence[str] = (), scale: str | None = None
) -> tuple[Suite, Source]:
    """Like `load_with_source`, from what a suite file would hold; files that it names are relative to `folder`."""
    return _changed(Source("suite", copy.deepcopy(dict(data)), folder=folder), overrides, scale)


def _changed(source: Source, overrides: Sequence[str], scale: str | None) -> tuple[Suite, Source]:
    if scale is not None:
        scale_down(source, scale)
    for assignment in overrides:
        override(source, assignment)
    return _loaded(source), source


def suite_from(resolved: Mapping[str, Any], name: str, folder: Path | None = None) -> Suite:
    """The suite that `Suite.resolved` wrote, for example into a manifest; `name` is how messages call it.

    What its author wrote will do as well, with the `folder` that it lay in, to which its files are relative.

    Raises:
        SuiteError: it is none that this version, with the plugins at hand, can run.
    """
    data = copy.deepcopy(dict(resolved))
    for place in COMPONENT_PLACES:
        *above, last = place
        holder: Any = data
        for part in above:
            holder = holder.get(part) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and holder.get(last, "") is None:
            del holder[last]  # a component that is not there is left out of a suite, not written as nothing
    return _loaded(Source(name, data, folder=folder))


def _loaded(source: Source) -> Suite:
    problems: list[Problem] = []
    fields: dict[str, Any] = dict(source.data)
    explained_already = set()
    for place, (registry_name, is_list) in COMPONENT_PLACES.items():
        if not source.holds(place):
            continue
        *above, last = place
        holder = fields
        for part in above:
            holder[part] = dict(holder[part])  # the file's own data stay as they were typed
            holder = holder[part]
        before = len(problems)
        holder[last] = _components(holder[last], place, REGISTRIES[registry_name], is_list, source, problems)
        if len(problems) > before:
            explained_already.add(place[0])
    if source.holds(("patches_from",)):
        fields["attacks"] = [*(fields.get("attacks") or ()), *_from_runs(fields["patches_from"], source, problems)]
    wrong = [source.problem(where, text) for where, text in mistyped(Suite, fields, ())]
    problems += wrong
    try:
        suite = Suite(**fields)
    except ValidationError as error:
        found = explained(error, Suite, (), source)
        problems += [problem for problem in found if not explained_already & set(problem.path[:1])]
        problems = _once(problems, wrong)
        raise SuiteError(_in_file_order(problems)) from None
    problems += [
        source.problem(where, text) for where, text in incoherences(suite) if where[0] not in explained_already
    ]
    if problems:
        raise SuiteError(_in_file_order(problems))
    return suite


def _from_runs(named: object, source: Source, problems: list[Problem]) -> list[Component]:
    """The patches of other runs, as attacks that read them."""
    found: list[Component] = []
    for folder in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
        try:
            found += stored_patches(beside(str(folder), source.folder or Path()))
        except QPatchBenchError as error:
            problems.append(source.problem(("patches_from",), str(error)))
    return found


def _components(
    value: object, path: KeyPath, registry: Registry, is_list: bool, source: Source, problems: list[Problem]
) -> Any:  # noqa: ANN401 (validated by Suite)
    if not is_list:
        return _component(value, registry, path, source, problems)
    if not isinstance(value, list):
        problems.append(source.problem(path, f"expected a list of {registry.kind}s, found {shown(value)}"))
        return None
    return [_component(item, registry, (*path, index), source, problems) for index, item in enumerate(value)]


def _component(
    value: object, registry: Registry, path: KeyPath, source: Source, problems: list[Problem]
) -> Component | None:
    fields = {"name": value} if isinstance(value, str) else value
    what = f"{'an' if registry.kind[0] in 'aeiou' else 'a'} {registry.kind}"
    if not isinstance(fields, dict):
        text = f"expected the name of {what}, or a mapping with name and fields, found {shown(value)}"
        problems.append(source.problem(path, text))
        return None
    name = fields.get("name")
    where = (*path, "name") if source.holds((*path, "name")) else path
    if not isinstance(name, str):
        found = f"the name {shown(name)}" if "name" in fields else "no name"
        problems.append(source.problem(where, f"expected a mapping with the name of {what}, found {found}"))
        return None
    wrong: list[Problem] = []
    try:
        cls = registry.get(name)
        fields = {**fields, **placed(cls, fields, source.folder)}
        wrong += [source.problem(at, text) for at, text in mistyped(cls, fields, path)]
        problems += wrong
        component: Component = cls(**fields)
    except ValidationError as error:
        problems += _once(explained(error, cls, path, source), wrong)
        return None
    except QPatchBenchError as error:
        # No such name, a plugin that cannot be imported, or a component that looked itself up in vain.
        problems.append(source.problem(where, str(error)))
        return None
    return component


def _once(problems: Iterable[Problem], wrong: Sequence[Problem]) -> list[Problem]:
    """Without a second text on a value that is `wrong` already."""
    told = {problem.path for problem in wrong}
    return [problem for problem in problems if problem in wrong or problem.path not in told]


def _in_file_order(problems: Iterable[Problem]) -> list[str]:
    return [problem.text for problem in sorted(dict.fromkeys(problems), key=lambda problem: problem.position)]
