"""What identifies published weights in a key: which they are, and what they hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch

from qpatchbench.errors import WeightsError
from qpatchbench.models.cifar import CifarModel
from qpatchbench.models.timm_models import TimmModel
from qpatchbench.suite.file.load import load_with_source
from qpatchbench.suite.jobs.pipeline import TrainJob
from qpatchbench.suite.plan.fingerprints import weights_keys
from qpatchbench.suite.plan.plan import make_plan
from qpatchbench.suite.store.store import Store
from qpatchbench.suite.work.train import trained
from qpatchbench.suite.work.workbench import Workbench, loaded_data_keys

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


def test_weights_that_change_while_a_suite_runs_are_not_stored_under_the_old_key(tmp_path: Path) -> None:
    torch.save(CifarModel(name="resnet20").build(4, 32).state_dict(), tmp_path / "net.pt")
    text = SUITE.replace("{name: resnet18, weights: pretrained}", f"{{name: resnet20, weights: {tmp_path / 'net.pt'}}}")
    (tmp_path / "suite.yaml").write_text(text)
    suite, source = load_with_source(tmp_path / "suite.yaml")
    bench = Workbench(suite, Store(tmp_path / "cache"), tmp_path, torch.device("cpu"))
    plan = make_plan(suite, loaded_data_keys(bench, source), weights_keys(suite, source))
    job = next(job for job in plan.jobs if isinstance(job, TrainJob))
    assert trained(bench, job, lambda fraction, figures: None).arrays
    torch.save(CifarModel(name="resnet20").build(4, 32).state_dict(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"its weights are others than when the run began: expected \w{64}, found"):
        trained(bench, job, lambda fraction, figures: None)
