"""`qpatchbench verify` on a run whose defenses and attacks have changed since."""

from __future__ import annotations

import json

import pytest

from qpatchbench.attacks.lavan import Lavan
from qpatchbench.component import versions_of
from qpatchbench.defenses.qat import QuantizationAwareTraining
from qpatchbench.quantizers.qat import Qat
from qpatchbench.registry import ATTACKS
from qpatchbench.suite.verification.earlier_versions import earlier_versions
from tests.cli.conftest import CopyOf, TinyRuns
from tests.cli.test_verify import CLAIMED, manifest_of, verified


def test_labels_are_those_of_the_versions_that_made_the_run(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changed in (QuantizationAwareTraining, Lavan):
        monkeypatch.setattr(changed, "version", changed.version + 1)
    code, text = verified(tiny_runs, tiny_runs.first)
    assert code == CLAIMED
    assert "labels: every one is that of the suite\n" in text
    assert "predictions: 14 of 14 cells made again on 2 of 2 networks, 0 of 1344 predictions differ\n" in text
    claims = text.partition("claimed, not checked:\n")[2].splitlines()
    assert [claim for claim in claims if "has changed since" in claim] == [
        f"  - that version {Lavan.version - 1} of Lavan made what the run has of it: it has changed since",
        "  - that version 1 of QuantizationAwareTraining made what the run has of it: it has changed since",
    ]


def test_patches_of_earlier_attacks_are_not_crafted_anew(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {entry["attack"]["name"] for entry in manifest_of(tiny_runs.first)["patches"] if entry["sources"]}
    for attack in (ATTACKS.get(name) for name in names):
        monkeypatch.setattr(attack, "version", attack.version + 1)
    code, text = verified(tiny_runs, tiny_runs.first, "--recraft", "100")
    assert code == CLAIMED
    assert text.count("has changed since") == len(names) > 1
    assert "crafted anew" not in text


@pytest.mark.parametrize("version", [0, 99, "1", None, [1], {}])
def test_a_version_that_never_was_or_is_not_yet_is_wrong(tiny_runs: TinyRuns, copy_of: CopyOf, version: object) -> None:
    folder = copy_of(tiny_runs.first)
    manifest = manifest_of(folder)
    for entry in manifest["checkpoints"]:
        entry["defense"]["version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "has changed since" not in text


def test_an_earlier_version_does_not_fit_keys_of_today(
    tiny_runs: TinyRuns, copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(tiny_runs.first)
    monkeypatch.setattr(QuantizationAwareTraining, "version", 3)
    manifest = manifest_of(folder)
    for entry in manifest["checkpoints"]:
        entry["defense"]["version"] = 2  # keys were made for 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    code, text = verified(tiny_runs, folder, "--numbers-only")
    assert code == 1
    assert "expected a cell of the suite, found one that it does not ask for" in text


def test_only_what_is_stored_may_be_of_an_earlier_version(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are deployed by today's code, whatever made the run."""
    monkeypatch.setattr(Qat, "version", Qat.version + 1)
    code, text = verified(tiny_runs, tiny_runs.first, "--numbers-only")
    assert code == 1
    assert "another version of a component made the cell" in text


def test_versions_disagreeing_among_entries_are_nobodys() -> None:
    from qpatchbench.suite.file.load import suite_from

    suite = suite_from(
        {
            "suite": "tiny", "dataset": {"name": "digits"}, "models": ["resnet20"], "defenses": ["qat"],
            "quantizers": [{"name": "qat", "bits": [32, 4]}], "attacks": [{"name": "lavan", "size": 3}],
        },
        "test",
    )  # fmt: skip
    (attack,) = suite.attacks
    both = [{"attack": attack.identity()}, {"attack": {**attack.identity(), "version": 1}}]
    assert earlier_versions(suite, {"patches": both}) == {}
    assert earlier_versions(suite, {"patches": both[1:]}) == {"qpatchbench.attacks.lavan:Lavan": 1}
    inside = [{"attack": {"class": "else", "version": 1, "parts": both[1:]}}]
    assert earlier_versions(suite, {"patches": inside}) == {"qpatchbench.attacks.lavan:Lavan": 1}
    with versions_of({"qpatchbench.attacks.lavan:Lavan": 1}):
        assert attack.identity()["version"] == 1
    assert attack.identity()["version"] == Lavan.version
