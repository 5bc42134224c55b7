"""Images in the report of a real run: the network answers to each what the page says that it answers."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import torch

from qpatchbench.ops.patches.pasting import to_float
from qpatchbench.runs.run import Run
from qpatchbench.suite.verification.rebuilding import rebuilt
from tests.cli.conftest import TinyRuns
from tests.report.shown_images import opened, shown_images

TOLD = re.compile(r"label class(\d): class(\d) → class(\d), (test/\d+)")


def test_the_network_answers_as_the_page_says(tiny_runs: TinyRuns) -> None:
    folder = tiny_runs.first
    page = (folder / "report.html").read_text(encoding="utf-8")
    run = Run(folder)
    again = rebuilt(folder, run.manifest, tiny_runs.cache, Path(), torch.device("cpu"))
    jobs = {job.short_key: job for job in again.cells}
    kinds, fooled = set(), 0
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    for number, row in enumerate(rows, 1):
        names = ("attack", "source_bits", "target_bits")
        (cell,) = [each for each in run.cells if all(getattr(each, name) == row[name] for name in names)]
        shown = list(shown_images(page, opened(page, f"log-{number}")))
        assert len(shown) >= min(3, cell.counts[0].n_fooled) + 1
        with torch.no_grad():
            logits = again.bench.network(jobs[cell.cell].target)(
                to_float(torch.stack([torch.from_numpy(each.pixels.copy()) for each in shown]))
            )
        for each, answer in zip(shown, logits.argmax(dim=1).tolist(), strict=True):
            found = TOLD.fullmatch(each.text)
            assert found is not None, each.text
            label, before, after = (int(text) for text in found.groups()[:3])
            assert (label, answer) == (before, after)
            assert run.placed(cell, (found[4],))[found[4]].patched_prediction == after
            fooled += before != after
        kinds.add(cell.patch_kind)
    assert kinds == {"universal", "per_image"}
    assert fooled >= 3
