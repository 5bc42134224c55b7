"""The Python interface: the same numbers as the command line, single steps on networks at hand, fast to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import qpatchbench
from qpatchbench.api.progress_bar import progress_bar
from qpatchbench.errors import QPatchBenchError, SuiteError
from qpatchbench.evaluation.measure import count_outcomes, eligible_images, fooled_images
from qpatchbench.suite.store.store import Store
from qpatchbench.types import Targeted, Untargeted

SUITE: dict[str, Any] = {
    "suite": "small",
    "dataset": {"name": "fake", "image_size": 8, "classes": 3, "train_pool": 240, "test_pool": 48}
    | {"calibration_images": 16, "craft_images": 24},
    "models": ["resnet20"],
    "training": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05, "augmentation": "none"},
    "defenses": ["none"],
    "quantizers": [{"name": "ptq", "bits": [32, 8]}],
    "attacks": [{"name": "lavan", "size": 3, "steps": 3, "batch_size": 4, "targets": [1]}],
    "transfer": {"sources": [32]},
    "evaluation": {"images": 24},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> qpatchbench.Run:
    folder = tmp_path_factory.mktemp("python")
    return qpatchbench.run(SUITE, folder / "first", cache=folder / "cache", progress=False)


def test_importing_is_fast_and_loads_no_torch() -> None:
    code = """
import sys, qpatchbench
assert set(qpatchbench.__all__) <= set(dir(qpatchbench))
assert not {"torch", "pandas", "numpy", "pydantic"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in qpatchbench.__all__:
        assert getattr(qpatchbench, name) is not None
    with pytest.raises(AttributeError, match="module 'qpatchbench' has no attribute 'trnasfer'"):
        qpatchbench.trnasfer  # noqa: B018


def test_a_run_is_tables_patches_and_a_page(finished: qpatchbench.Run) -> None:
    assert len(finished.rows) == 2
    written = pd.read_csv(finished.folder / "leaderboard.csv")
    np.testing.assert_allclose(finished.rows["asr"], written["asr"], atol=1e-4)
    assert list(finished.board["source"]) == ["fp@32", "fp@32"]
    assert len(finished.outcomes) == len(finished.cells) * 24
    (patch,) = finished.patches
    assert patch.stored.textures.shape == (1, 3, 3, 3)
    assert patch.passport["crafted on"] == ["resnet20 none fp@32, seed 0"]
    page = finished._repr_html_()
    assert "<table" in page
    assert "lavan" in page
    assert finished.errors == {}
    assert repr(finished).endswith("2 rows, complete)")
    both = qpatchbench.leaderboard([finished, finished.folder])
    assert len(both) == 4
    assert list(both.columns[:2]) == ["run", "dataset"]


def test_the_same_call_again_does_nothing_and_the_plan_is_the_same(finished: qpatchbench.Run) -> None:
    cache, before = finished.folder.parent / "cache", (finished.folder / "manifest.json").stat().st_mtime_ns
    again = qpatchbench.run(qpatchbench.load_suite(SUITE), finished.folder, cache=cache, progress=False)
    assert (again.folder / "manifest.json").stat().st_mtime_ns == before
    assert qpatchbench.plan(SUITE, cache=cache).key == finished.manifest["plan"]


def test_a_bar_tells_of_every_job(finished: qpatchbench.Run, capsys: pytest.CaptureFixture[str]) -> None:
    made, store = qpatchbench.plan(SUITE, cache=finished.folder.parent / "cache"), Store(finished.folder / "empty")
    with progress_bar(made, store, shown=True) as bar:
        for job in made.jobs[1:]:
            bar.started(job)
            bar.progressed(job, 0.5, {"loss": 1.0})
            bar.finished(job, 0.1)
        bar.note("a remark")
        bar.failed(made.jobs[0], "no luck")
    told = capsys.readouterr().err
    assert f"{len(made.jobs)}/{len(made.jobs)}" in told
    assert "a remark" in told
    assert f"failed: {made.jobs[0].title}: no luck" in told
    with progress_bar(made, store, shown=False) as bar:
        bar.started(made.jobs[0])
    assert capsys.readouterr().err == ""


def test_suites_are_loaded_from_files_names_and_dicts(tmp_path: Path) -> None:
    assert qpatchbench.load_suite("quickstart").suite == "quickstart"
    assert qpatchbench.load_suite(SUITE, ["evaluation.images=7"]).evaluation.images == 7
    with pytest.raises(SuiteError, match=r"suite:1:1: attacks\[0\].name: unknown attack 'lavn'. Did you mean: lavan\?"):
        qpatchbench.load_suite({**SUITE, "attacks": [{"name": "lavn", "size": 3}]})


class Linear(torch.nn.Module):
    """The best patch for a class is known: white where its weights are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 3)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.bias.zero_()
            self.layer.weight[0] += 0.01
            self.layer.weight[1] -= 0.01

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer((images - 0.5).flatten(1))
        return logits


def images(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright ones of class 0 and dark ones of class 1."""
    labels = torch.arange(count) % 2
    return (0.55 - 0.1 * labels.float()).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous(), labels


def test_craft_measure_and_transfer_on_networks_at_hand() -> None:
    network = Linear().train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    patch = qpatchbench.craft(network, images(), "lavan", goals=0, size=4, steps=30, batch_size=8, step_size=0.1)
    assert patch.goals == (Targeted(0),)
    assert patch.textures.min() > 0.95
    found = qpatchbench.measure(network, patch, images())
    assert (found.asr, found.clean_accuracy) == (100.0, 100.0)
    assert found.counts[0].n_eligible == 20
    assert found.asr_control < 60
    assert "100.0" in found._repr_html_()
    assert len(found.outcomes) == 40
    eight = qpatchbench.quantize(network, bits=8, calibration=images()[0])
    table = qpatchbench.transfer(
        {"float": network}, {"float": network, "8 bits": eight},
        images(), images(), "lavan", goals="untargeted", size=4, steps=5, batch_size=8,
    )  # fmt: skip
    assert list(table["target"]) == ["float", "8 bits"]
    assert network.training
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_goals_that_share_images_are_no_further_images() -> None:
    """Twice the same outcomes say no more than once; counted as independent the interval would be 0.7 as wide."""
    labels = np.zeros(200, np.int32)
    once = np.where(np.arange(200) % 4, 0, 1)[None]

    def measured(patched: np.ndarray) -> qpatchbench.Measurement:
        goals = (Untargeted(),) * len(patched)
        fooled, eligible = fooled_images(labels, labels, patched, goals), eligible_images(labels, labels, goals)
        counts = count_outcomes(labels, labels, patched, goals)
        return qpatchbench.Measurement(labels, labels, patched, fooled, eligible, counts, counts)

    one, two = measured(once), measured(np.repeat(once, 2, axis=0))
    assert one.asr == two.asr == 25
    widths = [each.asr_interval.high - each.asr_interval.low for each in (one, two)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_places_and_counts_are_those_of_a_suite(finished: qpatchbench.Run) -> None:
    suite = qpatchbench.load_suite(SUITE)
    cache = finished.folder.parent / "cache"
    from qpatchbench.data.base import Decoding

    splits = suite.dataset.load(cache / "data", cache, Decoding(), 24)
    (travelling,) = finished.patches
    row = finished.rows.iloc[0]

    from qpatchbench.suite.work.workbench import tensors

    model = suite.models[0].build(3, 8)
    checkpoint = finished.manifest["checkpoints"][0]["key"]
    model.load_state_dict(dict(tensors(Store(cache).read("train", checkpoint))))
    measured = qpatchbench.measure(model, travelling.stored.path, splits.evaluation)
    assert measured.counts[0].n_eligible == row["n_eligible"]
    assert measured.counts[0].n_fooled == row["n_fooled"]
    assert measured.control[0].n_fooled == row["n_control_fooled"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: qpatchbench.measure(Linear(), np.zeros((3, 9, 9)), images()), "a patch that fits into 8x8 pixels"),
        (lambda: qpatchbench.measure(Linear(), np.zeros((3, 4, 4)), images(), goals=3), "expected class ids in 0..2"),
        (lambda: qpatchbench.measure(Linear(), np.zeros((2, 4, 4)), images()), "the patch: expected 3 colours"),
        (lambda: qpatchbench.measure(Linear(), np.zeros((2, 3, 4, 4)), images()), "a goal for each of 2 patches"),
        (lambda: qpatchbench.measure(Linear(), "none.png", images()), "expected a patch file, found none at"),
        (lambda: qpatchbench.measure(Linear(), np.zeros((3, 4, 4)), (images()[0] * 255, images()[1])), "in [0, 1]"),
        (
            lambda: qpatchbench.measure(Linear(), np.zeros((3, 4, 4)), (images()[0], torch.ones(1))),
            "as many labels (N,)",
        ),
        (lambda: qpatchbench.quantize(Linear(), bits=8), "ptq-minmax is calibrated on images: expected calibration="),
        (lambda: qpatchbench.quantize(Linear(), "qat", 8, images()[0]), "qat deploys trained quantizers"),
        (lambda: qpatchbench.craft(Linear(), images(), "lavn", size=4), "unknown attack 'lavn'. Did you mean: lavan?"),
    ],
)
def test_what_does_not_fit_is_said(wrong: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(QPatchBenchError) as caught:
        wrong()
    assert message in str(caught.value)


def test_an_array_without_a_goal_is_untargeted() -> None:
    found = qpatchbench.measure(Linear(), (np.ones((4, 4, 3)), np.eye(4)), images())
    assert found.counts[0].goal == str(Untargeted())
