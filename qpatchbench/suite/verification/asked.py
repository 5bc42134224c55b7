"""The plan that a run has to have followed: of a committed suite or, failing that, of the manifest's own copy."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from qpatchbench.errors import QPatchBenchError
from qpatchbench.runs.integrity import Unchecked
from qpatchbench.suite.file.load import suite_from
from qpatchbench.suite.file.schema import COMPONENT_PLACES, Suite
from qpatchbench.suite.file.source import Source
from qpatchbench.suite.jobs.base import DataKeys
from qpatchbench.suite.jobs.decoding import decoding_for
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import Plan, make_plan
from qpatchbench.suite.verification.strangers import Unavailable, expect_known, expect_modest_suite

OWN_COPY = Unchecked("that its suite is the one it is named after: --suite FILE holds it against the committed one")


def own_suite(manifest: Mapping[str, Any]) -> Suite:
    """The suite that a manifest says was run.

    Raises:
        Unavailable: it says none that this version can run, or one of more jobs than any manifest lists.
    """
    if not isinstance(manifest.get("resolved"), dict):
        raise Unavailable("the manifest has no resolved suite")
    expect_modest_suite(manifest["resolved"])
    try:
        return suite_from(manifest["resolved"], "manifest.json")
    except QPatchBenchError as error:
        raise Unavailable(str(error)) from None


def named_plan(suite: Suite, manifest: Mapping[str, Any], cache: Path) -> Plan:
    """The plan of a suite on the images whose hashes the manifest names, which nobody has to have.

    Raises:
        Unavailable: the manifest names no hashes, or those of one decoding of several.
    """
    if any(hash_findings(manifest)):
        raise Unavailable("the manifest names no hashes of images")
    found = manifest["dataset_fingerprint"]
    decodings = {decoding_for(model, suite) for model in suite.models}
    if len(decodings) > 1:
        raise Unavailable(f"the models see their images in {len(decodings)} ways, and the manifest has hashes of one")
    try:
        weights = weights_keys(suite, Source("manifest.json"), cache)
        expect_known(weights)
        return make_plan(suite, {model.title: DataKeys(**found) for model in suite.models}, weights)
    except QPatchBenchError as error:
        raise Unavailable(str(error)) from None


def hash_findings(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Hashes of images that are none."""
    found = manifest.get("dataset_fingerprint", {})
    names = {field.name for field in fields(DataKeys)}
    if found.keys() != names or not all(re.fullmatch("[0-9a-f]{32}", str(each)) for each in found.values()):
        yield f"manifest.json, dataset_fingerprint: expected a hash of each of {', '.join(sorted(names))}, found others"


def suite_findings(asked: Suite, name: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where the suite in the manifest is not the one that was asked for."""
    difference = first_difference(asked.resolved(), manifest.get("resolved"), "")
    if difference is not None:
        yield f"manifest.json, resolved{difference}, as {name} says it"


def typed_findings(suite: Suite, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Whether the suite as its author typed it is the one that the manifest spells out."""
    typed = manifest.get("typed")
    try:
        spelt = suite_from(_placed(typed, suite) if isinstance(typed, dict) else {}, "manifest.json, typed").resolved()
    except QPatchBenchError as error:
        yield f"manifest.json, typed: expected the suite as it was typed, found one that is none: {error}"
        return
    difference = first_difference(suite.resolved(), spelt, "")
    if difference is not None:
        yield f"manifest.json, typed: expected what resolved spells out, found another suite: {difference.lstrip('.')}"


def _placed(typed: Mapping[str, Any], suite: Suite) -> dict[str, Any]:
    """The suite as it was typed, with its files, which it names from its own folder, where `suite` has them."""
    placed = copy.deepcopy(dict(typed))
    for place, (_, is_list) in COMPONENT_PLACES.items():
        written: Any = placed
        meant: Any = suite
        for part in place:
            written, meant = written.get(part) if isinstance(written, dict) else None, getattr(meant, part, None)
        both = zip(written, meant, strict=False) if is_list and isinstance(written, list) else [(written, meant)]
        for own, component in both:
            for name in getattr(component, "files", ()) if isinstance(own, dict) else ():
                if isinstance(own.get(name), str) and _ends_with(str(getattr(component, name)), own[name]):
                    own[name] = getattr(component, name)
    return placed


def _ends_with(path: str, end: str) -> bool:
    """Whether a path ends with all parts of another."""
    parts = Path(end).parts
    return bool(parts) and Path(path).parts[-len(parts) :] == parts


def first_difference(expected: object, found: object, path: str) -> str | None:
    """Where two JSON values differ first, and how; None where nowhere.

    >>> first_difference({"a": [1, 2]}, {"a": [1, 3]}, "")
    ".a[1]: expected '2', found '3'"
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in [*expected, *(name for name in found if name not in expected)]:
            if name not in expected or name not in found:
                here = ("nothing", "something") if name not in expected else ("a value", "none")
                return f"{path}.{name}: expected {here[0]}, found {here[1]}"
            if (inner := first_difference(expected[name], found[name], f"{path}.{name}")) is not None:
                return inner
        return None
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return f"{path}: expected {len(expected)} items, found {len(found)}"
        both = enumerate(zip(expected, found, strict=True))
        found_inside = (first_difference(one, other, f"{path}[{place}]") for place, (one, other) in both)
        return next((inner for inner in found_inside if inner is not None), None)
    if type(expected) is not type(found) or expected != found:
        return f"{path}: expected {str(expected)[:80]!r}, found {str(found)[:80]!r}"
    return None
