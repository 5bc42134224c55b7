"""Commands that a test cannot take as they are shown: what is typed instead, and those that it leaves alone, and why.

A change is made wherever its pattern is found, in every document. One that changes nothing any more is an error, and so
is an exception that fits no command.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.documents.reading import ROOT, Shown


class Change(NamedTuple):
    """What is written instead of a pattern, and why."""

    pattern: str
    instead: str
    why: str


HELD_OUT = "--set dataset.calibration_images=16 --set dataset.craft_images=16"
FEWER = (
    f" --checks off --seeds 0 --set evaluation.images=20 --set dataset.train_images=64 {HELD_OUT}"
    " --set training.epochs=1 --set finetuning.epochs=1"
    " --set training.images_per_epoch=64 --set finetuning.images_per_epoch=64"
)
ATTACKS = " --set 'attacks=[{name: lavan, size: 6, steps: 2, targets: untargeted}]'"
DEFENSES = (
    " --set 'models=[resnet20]' --set 'quantizers=[{name: qat, bits: [32, 4]}]' --set 'transfer.sources=[32, same]'"
    " --set 'defenses=[qat, {name: triqdef, steps: 1}]'"
    " --set 'pool.seen=[{name: lavan, size: 4, steps: 2, targets: untargeted}]'"
    " --set 'pool.unseen=[{name: gap, size: 5, steps: 2, targets: untargeted}]' --set exclude=[] --set include=[]"
    " --set 'pool.unseen_quantizer={name: ptq, bits: [4]}' --set analysis.costs=null --set analysis.images=20"
)
TIME, IMAGES, GPU = "hours, or a GPU", "digits in the folders of CIFAR-10", "no GPU"

CHANGES = (
    # A run of the same suite, by the same path, with less of everything.
    Change(r"^qpatchbench run suites/(?=cifar_|protocol).*", r"\g<0>" + FEWER + ATTACKS, TIME),
    Change(r"^qpatchbench run suites/(cifar_defenses|protocol).*", r"\g<0>" + DEFENSES, TIME),
    Change(r"--data-dir DIR", '--data-dir "$DIGITS"', IMAGES),
    Change(r" --device cuda", "", GPU),
    Change(r"--workers \d+", "--workers 2", "two cores"),
    Change(r" --ray-address 10\.0\.0\.1:6379", "", "no cluster but one of this machine"),
    Change(r"my_network\.yaml (?=module)", rf"\g<0>{HELD_OUT} ", IMAGES),
    Change(r"^qpatchbench run suite\.yaml .*--executor .*", r"\g<0> --fresh", "the serial run before made it all"),
    Change(r"^qpatchbench plan suite\.yaml --measure.*", r"\g<0> --seeds 7", "the runs before left nothing to do"),
    Change(r"^(make test-portable)$", r"\1 TESTS=tests/ops/maps/test_similarity.py", TIME),
    Change(r"^(pytest -m numerical .*)$", r"\1 tests/ops/maps/test_similarity.py", TIME),
    Change(r"^make verify-entries$", r'QPATCHBENCH_CACHE="$PWD/none" \g<0>', "checkpoints are not committed"),
    Change(r"^qpatchbench verify results/entries/NAME.*", r"\g<0> --cache none", "checkpoints are not committed"),
    # Only named, in a sentence about it: asked for its help.
    *(
        Change(rf"^{command}$", r"\g<0> --help", "only named")
        for command in (
            "qpatchbench list",
            "qpatchbench validate",
            "qpatchbench verify",
            "qpatchbench report",
            "qpatchbench table",
            "qpatchbench figure",
            "ray symmetric-run",
        )
    ),
    # Names that a document leaves open.
    Change(r"\bRUN\.\.\.", "results/quickstart results/entries/quickstart-seed-1", "open"),
    Change(r"\bRUN --defenses A B\b", "results/cifar_defenses_small --defenses qat pbat", "open"),
    Change(r"\bRUN\b", "results/quickstart", "open"),
    Change(r"\bROW\b", "1", "open"),
    Change(r"\bcompare A B\b", "compare results/quickstart results/entries/quickstart-seed-1", "open"),
    Change(r"--run A --run B\b", "--run results/cifar_defenses --run results/my_run", "open"),
    Change(r"\bfigure NAME --run DIR\b", "figure all --run results/cifar_defenses", "open"),
    Change(r"\bdescribe KIND NAME\b", "describe attack lavan", "open"),
    Change(
        r"(.*) KIND NAME\b",
        r"for kind in attack dataset defense model preprocessor quantizer; do \1 $kind my_own_$kind || exit; done",
        "open",
    ),
    Change(r"\bSUITE MODEL QUANTIZER BITS\b", "quickstart resnet20 ptq 8", "open"),
    Change(r"\bFILE\b", "suites/quickstart.yaml", "open"),
    Change(
        r"\bPATCH\.safetensors IMAGE\.\.\. --out DIR\b",
        "$(ls results/quickstart/patches/*.safetensors | head -n 1) docs/report.png docs/leaderboard.png --out patched",
        "open",
    ),
    Change(r"\brun \.\.\.$", "run suite.yaml", "open"),
)

# Pattern -> why such a command is left alone. Its target has to be there all the same (tests/test_documents.py).
NOT_RUN = {
    r"^make bench$": "measures for minutes, on quiet cores",
    r"^make test-faults$": "eleven minutes of kills",
    r"^make quantizer-table$": "hours, with CIFAR-10 and published weights",
    r"^make gpu-check ": GPU,
    r"^python -m tests\.faults\.executors$": "minutes of kills",
    r"^#!/bin/bash\n": "no Slurm, and ray symmetric-run ends every Ray of the machine",
    r"^pip install pre-commit$": "a network",
    r"^pre-commit install$": "a tool that the extras do not bring",
}
# What takes a second or less and needs no run but that of the quick start: `make test` types it, too.
QUICK = re.compile(
    r"^qpatchbench (list|describe (?!network)|validate|schema|table|figure .*--help|leaderboard|compare|cite|explain"
    r"|suite new|verify --help|report --help)\b"
)
ABSENT = re.compile(r"results/(?!quickstart|entries|cifar_defenses_small|attack_ladder)|my_net")
# Statuses that are not 0, as the document says there.
STATUSES = {"qpatchbench verify results/entries/NAME --suite suites/quickstart.yaml": 3}


def made_elsewhere() -> dict[str, str]:
    """Targets that continuous integration makes as they are, as in NOT_RUN."""
    checks = (ROOT / ".github/workflows/checks.yml").read_text("utf-8") + (ROOT / ".ci/run").read_text("utf-8")
    targets = sorted(set(re.findall(r"\bmake ([a-z-]+)$", checks, re.MULTILINE)))
    return {rf"^make {target}$": "continuous integration makes it" for target in targets}


def why_not(command: Shown) -> str:
    """Why it is not run, or nothing."""
    reasons = {**NOT_RUN, **made_elsewhere()}
    return next((why for pattern, why in reasons.items() if re.search(pattern, command.text)), "")


def quick(command: Shown) -> bool:
    """Whether `make test` types it."""
    text = typed(command)
    return not why_not(command) and bool(QUICK.search(text)) and not ABSENT.search(text)


def typed(command: Shown) -> str:
    """What is typed for a command."""
    text = command.text
    for change in CHANGES:
        text = re.sub(change.pattern, change.instead, text)
    return text


def unused(commands: list[Shown]) -> list[str]:
    """Patterns that no command needs."""
    left = {*NOT_RUN, *(change.pattern for change in CHANGES)}
    for command in commands:
        text = command.text
        left -= {pattern for pattern in NOT_RUN if re.search(pattern, text)}
        for change in CHANGES:
            text, count = re.subn(change.pattern, change.instead, text)
            left -= {change.pattern} if count else set()
    return sorted(left)
