"""What identifies published weights in a key: which they are, and what they hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch

from qpatchbench.models.timm_models import TimmModel
from qpatchbench.suite.file.load import load_with_source
from qpatchbench.suite.plan.fingerprints import weights_keys

SUITE = """
suite: published
dataset: {name: fake, classes: 4, image_size: 32}
models: [{name: resnet18, weights: pretrained}]
defenses: [none]
quantizers: [{name: ptq, bits: [8]}]
attacks: [{name: lavan, size: 6}]
"""


def keys(tmp_path: Path, cache: Path | None, *, fetch: bool = False) -> str:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return weights_keys(*load_with_source(path), cache, fetch=fetch)["resnet18"]


def publish(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(TimmModel, "pretrained_tensors", lambda self, classes: {"weight": torch.full((2,), value)})


def test_the_key_names_library_tag_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, 1.0)
    found = keys(tmp_path, tmp_path / "cache", fetch=True)
    config = timm.get_pretrained_cfg("resnet18")
    assert config is not None
    release, _, digest = found.rpartition(" sha256:")
    assert release == f"timm {timm.__version__} resnet18.{config.tag} from {config.hf_hub_id}"
    assert len(digest) == 64
    publish(monkeypatch, 2.0)
    assert keys(tmp_path, tmp_path / "cache", fetch=True) != found, "given again under the same name"
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: dataclasses.replace(config, tag="other"))
    assert "resnet18.other" in keys(tmp_path, tmp_path / "cache", fetch=True)


def test_a_plan_fetches_nothing_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: TimmModel, classes: int) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(TimmModel, "pretrained_tensors", refuse)
    assert keys(tmp_path, None).endswith(" sha256:unread")
    assert keys(tmp_path, tmp_path / "cache").endswith(" sha256:unread")
    publish(monkeypatch, 1.0)
    found = keys(tmp_path, tmp_path / "cache", fetch=True)
    monkeypatch.setattr(TimmModel, "pretrained_tensors", refuse)
    assert keys(tmp_path, tmp_path / "cache") == found
    for record in (tmp_path / "cache" / "published").iterdir():
        record.write_text("[]")
    assert keys(tmp_path, tmp_path / "cache").endswith(" sha256:unread")
