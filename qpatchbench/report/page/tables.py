"""The leaderboard as CSV (every column), Markdown and LaTeX (the columns people read)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import pandas as pd

from qpatchbench.report.page.definitions import definitions_text

COLUMNS = (
    *("model", "defense", "quantization", "attack", "size", "source", "target"),
    *("asr [95 %]", "asr_targeted", "asr_common", "asr_control", "clean", "rank", "checks"),
)
RIGHT = {"target", "asr [95 %]", "asr_targeted", "asr_common", "asr_control", "clean", "rank"}
_DEFINED = ("asr", "asr_targeted", "asr_common", "asr_control", "intervals", "rank")
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bare bracket after the end of a row is read as its option
    "]": "{]}",
}


def csv(frame: pd.DataFrame) -> str:
    """Every column, four decimals, empty where there is no value."""
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def markdown(frame: pd.DataFrame, heading: str, stamps: Sequence[str]) -> str:
    """A heading, what stamps the run, the definitions and the table."""
    lines = [f"# {_markdown_cell(heading)}", ""]
    lines += [line for stamp in stamps for line in (f"**{_markdown_cell(stamp)}**", "")]
    lines += [f"- {_markdown_cell(text)}" for text in definitions_text(_DEFINED)]
    return "\n".join([*lines, "", markdown_table(COLUMNS, readable(frame), right=RIGHT)]) + "\n"


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]], *, right: Set[str]) -> str:
    """A table with a heading row; the columns in `right` are aligned to the right."""
    lines = [_pipes([_markdown_cell(name) for name in names])]
    lines += [_pipes(["---:" if name in right else "---" for name in names])]
    return "\n".join([*lines, *(_pipes([_markdown_cell(text) for text in row]) for row in rows)])


def latex(frame: pd.DataFrame, heading: str, stamps: Sequence[str]) -> str:
    r"""A booktabs tabular for \input; the definitions are comments above it, the stamps are rows."""
    align = "".join("r" if name in RIGHT else "l" for name in COLUMNS)
    lines = [f"% {_one_line(heading)}; needs \\usepackage{{booktabs}}"]
    lines += [f"% {_one_line(text)}" for text in definitions_text(_DEFINED)]
    lines += [f"\\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [rf"\multicolumn{{{len(COLUMNS)}}}{{l}}{{{tex_escaped(stamp)}}} \\" for stamp in stamps]
    lines += [_tex_row(COLUMNS), r"\midrule"]
    lines += [_tex_row(row) for row in readable(frame)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def readable(frame: pd.DataFrame) -> list[list[str]]:
    """COLUMNS of every row, as text; one decimal."""
    return [_readable(row) for row in frame.to_dict("records")]


def tex_escaped(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> tex_escaped("w4_a8 & 5 %")
    'w4\\_a8 \\& 5 \\%'
    """
    return "".join(_TEX.get(character, character) for character in _one_line(text))


def stamps(manifest: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    """What a reader must know before any number: a partial run, the data used, transfer only, failures."""
    found = []
    if bool(manifest.get("partial")) or bool(frame["partial"].any()):
        found.append("partial: the evaluation images were cut by --limit")
    if manifest.get("dataset_note"):
        found.append(f"dataset: {manifest['dataset_note']}")
    alone = int(frame["transfer_only"].sum())
    if alone:
        found.append(f"transfer only: {alone} of {len(frame)} rows have no white-box patch on their target")
    broken = int((frame["status"] != "ok").sum())
    if broken:
        found.append(f"incomplete: {broken} of {len(frame)} rows have failed cells")
    return found


def _readable(row: Mapping[Any, Any]) -> list[str]:
    interval = ""
    if not math.isnan(row["asr"]):
        interval = f"{row['asr']:.1f} [{row['asr_low']:.1f}, {row['asr_high']:.1f}]"
    return [
        row["model"],
        row["defense"] if row["preprocessor"] == "none" else f"{row['defense']} + {row['preprocessor']}",
        row["quantization"],
        row["attack"],
        " ".join(filter(None, (f"{row['patch_height']}x{row['patch_width']}", row["transformation"]))),
        source_text(row),
        row["target_bits"],
        interval,
        *(_number(row[name]) for name in ("asr_targeted", "asr_common", "asr_control", "clean_accuracy")),
        "" if pd.isna(row["rank"]) else str(row["rank"]),
        _verdict(row["status"], row["checks"]),
    ]


def _verdict(status: str, checks: str) -> str:
    if status == "ok":
        return checks
    return f"{status}; {checks}" if checks not in ("", "ok") else status


def source_text(row: Mapping[Any, Any]) -> str:
    """Where a patch comes from, with what stood before it; model and defense only where they are not the target's."""
    if not row["source_model"]:
        return "none"
    names = [row[f"source_{name}"] for name in ("model", "defense") if row[f"source_{name}"] != row[name]]
    seen = f" ({row['seen']})" if row["seen"] else ""
    behind = "" if row["source_preprocessor"] == "none" else f" + {row['source_preprocessor']}"
    return " ".join([*names, f"{row['source_quantization']}@{row['source_bits']}"]) + behind + seen


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown_cell(text: str) -> str:
    return re.sub(r"([\\|`*_<])", r"\\\1", _one_line(text))


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(tex_escaped(cell) for cell in cells) + r" \\"
