"""What differs in two manifests."""

from __future__ import annotations

from typing import Any

from qpatchbench.report.compare.manifests import manifest_differences


def manifest(**suite: object) -> dict[str, Any]:
    return {
        "suite": "small",
        "resolved": {"suite": "small", "pool": None, "attacks": [{"name": "gap", "size": 6, "label": None}], **suite},
        "versions": {"torch": "2.12"},
        "jobs": [{"key": "of no interest"}],
        "plan": "of no interest",
    }


def told(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each.field, each.a, each.b) for each in manifest_differences(a, b)]


def test_equal_manifests_do_not_differ() -> None:
    assert told(manifest(), manifest() | {"jobs": [], "plan": "another", "typed": {}}) == []


def test_fields_are_named_with_both_values() -> None:
    other = manifest(seeds=[0, 1]) | {"versions": {"torch": "2.14"}, "git": {"dirty": True}}
    assert told(manifest(seeds=[0]), other) == [
        ("suite.seeds", "0", "0 1"),
        ("versions.torch", "2.12", "2.14"),
        ("git.dirty", "absent", "True"),
    ]
    assert told(other, manifest(seeds=[0]))[0] == ("suite.seeds", "0 1", "0")


def test_components_are_told_apart_by_name_not_by_place() -> None:
    gap, lavan = {"name": "gap", "size": 6}, {"name": "lavan", "size": 4, "steps": 9}
    assert told(manifest(attacks=[gap]), manifest(attacks=[lavan, gap])) == [
        ("suite.attacks[lavan]", "absent", "present")
    ]
    assert told(manifest(attacks=[lavan, gap]), manifest(attacks=[gap, {**lavan, "steps": 10}])) == [
        ("suite.attacks[lavan].steps", "9", "10")
    ]
    assert told(manifest(attacks=[gap, gap]), manifest(attacks=[gap, {**gap, "size": 8}])) == [
        ("suite.attacks[gap #2].size", "6", "8")
    ]


def test_what_is_left_out_and_what_is_empty_are_the_same() -> None:
    assert told(manifest(pool=None, exclude=[]), manifest()) == []
    assert told(manifest(limit=None), manifest(limit=5)) == [("suite.limit", "absent", "5")]


def test_a_manifest_without_a_suite_differs_in_all_of_it() -> None:
    bare = {name: value for name, value in manifest().items() if name not in ("resolved", "suite")}
    assert told(bare, manifest()) == [("suite.suite", "absent", "small"), ("suite.attacks[gap]", "absent", "present")]
