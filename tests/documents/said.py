"""What documents say that commands do, where it can be seen in what they print."""

from __future__ import annotations

import re

from tests.documents.reading import Shown

# Of the commands as they are shown -> of what each prints; both are searched for.
SAID = {
    r"^make demo$": r"report: results/quickstart/report\.html",
    r"^qpatchbench validate suites": r"suites/quickstart\.yaml: valid\n",
    r"^qpatchbench plan .*protocol.* --scale gpu": r"(?s): 2670 jobs .*\ntrain: .* 48\.8 million .*--scale cpu: 1931 ",
    r"^qpatchbench plan suite\.yaml --measure": r"(?s)\ntime: about .*\ndisk: .*\nmemory: ",
    r"^qpatchbench plan suite\.yaml --json": r"\A[\[{]",
    r"^qpatchbench run suites/cifar_transfer_small.*--executor process": r"nothing to do, all \d+ jobs",
    r"^qpatchbench list suites": r"suites/quickstart\.yaml +The whole pipeline",
    r"^qpatchbench list attacks": r"\n(gap|lavan) +universal",
    r"^qpatchbench list tables": r"\A([^\n]+\n){39}\Z",
    r"^qpatchbench table contradictions": r"\n(\| [A-Z]\d\d \| [^\n]+\n){67}\Z",
    r"^qpatchbench table triqdef\.5 ": r"triqdef\.5: ASR of LAVAN, GAP and PatchAttack",
    r"^qpatchbench table all ": r"(tables/[a-z]+\.\d+\.md\n){39}",
    r"^qpatchbench claims ": r"\nOf 41 claims, as published: ",
    r"^qpatchbench figure NAME ": r"\.pdf\n.*\.png\n",
    r"^qpatchbench schema suite": r'"properties"',
    r"^qpatchbench plugin check ": r"\n1 component, seed 0: \d+ ok, (?!.*failed)",
    r"^qpatchbench explain RUN": r"(?s)\nNumber\n.*\nChecks\n.*\nImages that decide",
    r"^qpatchbench cite": r"\n@\w+\{",
    r"^qpatchbench leaderboard .* --format tex": r"\\begin\{(longtable|tabular)",
    r"^qpatchbench leaderboard .* --long": r"\\begin\{longtable\}",
    r"^qpatchbench leaderboard RUN\.\.\. --format html": r"\A<!DOCTYPE html>",
    r"^qpatchbench leaderboard .* --fail-if-worse": r"0 worse after Holm's correction",
    r"^qpatchbench verify RUN --suite": r"(?s)rate and hash is as it should be.*predictions: (\d+) of \1 cells",
    r"^qpatchbench verify results/entries/NAME": r"claimed, not checked:(?s:.)* its authors",
    r"^qpatchbench export ": r"onnxruntime agrees on \d+ of \d+ predictions",
    r"^qpatchbench describe network": r"(?s)scale per .* levels .* output channel ",
    r"^qpatchbench describe attack gap": r"(?s)arXiv 1712\.09665.* steps = 1000 ",
    r"^qpatchbench apply ": r"\.patched\.png",
    r"^qpatchbench patches ": r"patches, a contact sheet and their passports: shared",
}


def missing(command: Shown, printed: str) -> list[str]:
    """What a command should have printed and did not."""
    wanted = [said for pattern, said in SAID.items() if re.search(pattern, command.text)]
    return [said for said in wanted if not re.search(said, printed)]


def unsaid(commands: list[Shown]) -> list[str]:
    """Patterns that fit no command."""
    return [pattern for pattern in SAID if not any(re.search(pattern, command.text) for command in commands)]
