"""The report of a simulated run: files, tables, HTML, and the same bytes again."""

from __future__ import annotations

import base64
import csv as csv_module
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest
from PIL import Image

from qpatchbench.errors import ArtifactError, UnknownNameError
from qpatchbench.evaluation.checks.explanations import EXPLANATIONS
from qpatchbench.report.leaderboard.row import COLUMNS
from qpatchbench.report.page.build import FORMATS, build
from qpatchbench.report.page.escaping import tex_escaped
from qpatchbench.report.page.tables import READ_COLUMNS

ENGINES = ("pdflatex", "xelatex", "lualatex")
ENGINE = next(filter(None, map(shutil.which, ENGINES)), None)
VOID = {"meta", "img", "link", "br", "hr", "input"}


@pytest.fixture(scope="module")
def report(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(simulated, copy)
    written = build(copy, FORMATS)
    assert all(path.is_file() for path in written)
    before = {copy / path.relative_to(simulated) for path in simulated.rglob("*")}
    assert set(written) == {path for path in copy.rglob("*") if path.is_file()} - before
    return copy


@pytest.fixture(scope="module")
def frame(report: Path) -> pd.DataFrame:
    return pd.read_csv(
        report / "leaderboard.csv",
        dtype={"target_bits": str, "source_bits": str},
        keep_default_na=False,
        na_values=[""],
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_bytes_again_in_another_process_and_folder(report: Path, simulated: Path, tmp_path: Path) -> None:
    shutil.copytree(simulated, tmp_path / "run")
    (tmp_path / "matplotlibrc").write_text("font.size: 22\naxes.facecolor: red\nsavefig.dpi: 30\n")
    program = (
        "import sys; from pathlib import Path; from qpatchbench.report.page.build import FORMATS, build\n"
        "build(Path(sys.argv[1]), FORMATS)\n"
        "assert 'torch' not in sys.modules, 'the report imported torch'\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'the report imported pyplot'\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "MPLCONFIGDIR": str(tmp_path), "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"},
    )
    again = _files(tmp_path / "run")
    assert again == _files(report)


def test_statistics_and_tables_need_neither_torch_nor_matplotlib() -> None:
    program = (
        "import sys, qpatchbench.statistics.intervals, qpatchbench.evaluation.checks.paired\n"
        "import qpatchbench.report.page.build\n"
        "found = {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not found, found\n"
        "import qpatchbench.report.page.html\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])


def test_drawing_leaves_the_users_settings_alone(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    path = folder.write()
    build(path, ["html"])
    before = _files(path)
    with mpl.rc_context({"font.size": 31.0}):
        build(path, ["html"])
        assert mpl.rcParams["font.size"] == 31.0
    assert _files(path) == before


def test_csv_has_fixed_precision_and_empty_cells(report: Path, frame: pd.DataFrame) -> None:
    with (report / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv_module.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    percentages = [name for name in COLUMNS if name.startswith("asr") or name.endswith("accuracy")]
    for row in rows:
        assert all(re.fullmatch(r"(-?\d+\.\d{4})?", row[name]) for name in [*percentages, "transfer_ratio"])
        assert all(re.fullmatch(r"\d*", row[name]) for name in COLUMNS if name.startswith("n_") or name == "rank")
        assert "nan" not in ",".join(row.values()).lower()
    assert frame["asr"].dropna().between(0, 100).all()


def test_every_finished_row_keeps_the_identities(frame: pd.DataFrame) -> None:
    done = frame[frame["asr"].notna()]
    assert len(done) > 100
    assert (done["asr_low"] <= done["asr"]).all()
    assert (done["asr"] <= done["asr_high"]).all()
    assert (done["asr_targeted"].dropna() <= done["asr"][done["asr_targeted"].notna()]).all()
    assert (done["asr_worst"] >= done["asr"] - 1e-9).all()
    assert (100 * done["n_fooled"] / done["n_eligible"] - done["asr"]).abs().max() < 1e-4
    assert (done["asr_net"] - (done["asr"] - done["asr_control"])).abs().max() < 2e-4
    untargeted = done[done["asr_targeted"].isna()]
    product = untargeted["clean_accuracy"] * (1 - untargeted["asr"] / 100)
    assert (untargeted["robust_accuracy"] - product).abs().max() < 1e-3


def test_rows_are_sorted_and_unique(frame: pd.DataFrame) -> None:
    key = [name for name in COLUMNS[:15] if name != "area_percent"]
    assert not frame.duplicated(key).any()
    one = frame[(frame["model"] == "resnet20") & (frame["attack"] == "lavan") & (frame["quantization"] == "qat")]
    own = one[(one["source_bits"] == "32") & (one["source_model"] == "resnet20")]
    assert list(own["target_bits"]) == ["8", "5", "4", "2"]


def test_the_white_box_patch_transfers_to_itself(frame: pd.DataFrame) -> None:
    diagonal = frame[(frame["lineage"] == "same-network") & frame["asr_common"].notna()]
    assert len(diagonal) > 20
    assert (diagonal["transfer_ratio"] == 1).all()


def test_collapsed_and_failed_rows_have_no_rank(frame: pd.DataFrame) -> None:
    collapsed = frame[frame["checks"].fillna("").str.contains("V6")]
    assert len(collapsed) > 0
    assert collapsed["asr_common"].isna().all()
    assert frame[frame["checks"].fillna("").str.contains("fail") | (frame["status"] != "ok")]["rank"].isna().all()
    assert set(frame["status"]) == {"ok", "1 of 2 seeds failed"}


def test_markdown_table_is_well_formed(report: Path, frame: pd.DataFrame) -> None:
    text = (report / "leaderboard.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in table}
    assert columns == {len(READ_COLUMNS)}
    assert len(table) == len(frame) + 2
    assert re.fullmatch(r"(\| -+:? )+\|", table[1])
    assert text.index("attack success rate") < text.index("| model |")
    assert "**dataset: cifar10 (jpeg)**" in text
    assert "nan" not in text.lower()


def test_latex_is_balanced_and_escaped(report: Path, frame: pd.DataFrame) -> None:
    text = (report / "leaderboard.tex").read_text(encoding="utf-8")
    _check_latex(text, len(frame))


def _check_latex(text: str, rows: int) -> None:
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0].startswith(r"{\tiny\setlength{\tabcolsep}{2pt}")
    assert body[1].startswith(r"\begin{longtable}{")
    assert body[-2:] == [r"\end{longtable}", "}"]
    given = re.sub(r"p\{[\d.]+cm\}", "p", body[1].removeprefix(r"\begin{longtable}{").removesuffix("}"))
    columns = len(READ_COLUMNS)
    assert len(given) == columns
    data = body[body.index(r"\endfoot") + 1 : -2]
    assert len(data) == rows
    for line in data:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
        plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar)\{\}", "", line)
        plain = re.sub(r"\\[&%$#_{}]", "", plain.removesuffix(r" \\"))
        assert not re.search(r"[%$#_~^\\<>|]", plain), line
        assert plain.count("{") == plain.count("}")


def test_latex_survives_every_special_character(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    name = r"a_b & 5% $x$ #1 {y} ~z^2 \w <|>[q]"
    folder.add((0, 1, 2), {"1": (1, 1, 2)}, defense=name)
    path = folder.write()
    build(path, ["tex", "md", "html"])
    text = (path / "leaderboard.tex").read_text(encoding="utf-8")
    _check_latex(text, 1)
    assert r"a\_b \& 5\% \$x\$ \#1 \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}w" in text
    line = (path / "leaderboard.md").read_text(encoding="utf-8").splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", line)) - 1 == len(READ_COLUMNS)
    assert "&lt;|&gt;[q]" in (path / "report.html").read_text(encoding="utf-8")


def latex_document(report: Path) -> str:
    return (
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage[margin=1cm]{geometry}"
        "\\usepackage{booktabs,longtable}\\begin{document}\n"
        f"{(report / 'leaderboard.tex').read_text(encoding='utf-8')}\\end{{document}}\n"
    )


def test_latex_is_closed(report: Path) -> None:
    document = latex_document(report)
    assert document.count(r"\begin{") == document.count(r"\end{") == 2


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine: found neither " + ", nor ".join(ENGINES))
def test_latex_compiles(report: Path, tmp_path: Path) -> None:
    (tmp_path / "document.tex").write_text(latex_document(report), encoding="utf-8")
    command = [str(ENGINE), "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.findall(r"Overfull \\[hv]box \((?:\d{2,}|[2-9])\.\d+pt", done.stdout) == []


def test_escaping_is_one_to_one() -> None:
    assert tex_escaped("plain 1.5 text") == "plain 1.5 text"
    assert tex_escaped("\\{") == r"\textbackslash{}\{"


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "img":
            self.images.append(facts["src"] or "")
        self.links += [facts[name] or "" for name in ("href", "src") if name in facts]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parsed(path: Path) -> _Balance:
    page = _Balance()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def test_html_is_self_contained(report: Path) -> None:
    page = _parsed(report / "report.html")
    plots = {path.read_bytes() for path in (report / "plots").glob("*.png")}
    shown = {base64.b64decode(image.removeprefix("data:image/png;base64,")) for image in page.images}
    assert shown <= plots
    assert len(shown) >= 6
    text = (report / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    anchors = set(re.findall(r' id="([^"]+)"', text))
    assert len(anchors) == text.count(' id="'), "an anchor that stands twice"
    for link in page.links:
        assert link.startswith("data:") or link.removeprefix("#") in anchors, link
    assert "http" not in text.split("<body>")[0]
    assert "http" not in text[text.index("<script>") :]


def test_html_answers_before_it_explains(report: Path, frame: pd.DataFrame) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert headings[:3] == ["Answers", "Board", "Defenses"]
    assert headings[-1] == "Manifest"
    assert len(re.findall(r'id="log-\d', text)) == 2 * len(frame)  # a row, and what it opens to
    assert "a patch made on the float network fools" in text
    last = text[text.index(f'id="log-{len(frame)}-more"') :]
    assert f"<dd>seed 0, target automobile; qpatchbench explain RUN {len(frame)}</dd>" in last[: last.index("</dl>")]
    for name in ("data of lavan 5x5 on resnet20 qat as CSV", "data of resnet20 at 4 bits as CSV"):
        data = re.search(rf'href="data:text/csv;base64,([^"]+)" aria-label="{name}"', text)
        assert data is not None
        assert base64.b64decode(data[1]).decode().splitlines()[0] in (
            "source,target,asr,asr_net,low,high,significant",
            "defense,threat,rate,low,high",
        )


def test_html_explains_failures_and_shows_errors(report: Path, frame: pd.DataFrame) -> None:
    page = _parsed(report / "report.html")
    text = "".join(page.text)
    failed = {name for checks in frame["checks"].dropna() for name in re.findall(r"V\d+", checks)}
    assert failed == {"V2", "V6"}
    for name in failed:
        explanation = EXPLANATIONS[name]
        assert all(
            part in text for part in (explanation.title, explanation.raised_if, explanation.means, explanation.do)
        )
    assert text.index("V6 failed in ") < text.index("Leaderboard of all patches")
    assert "AttackError: <b>no patch</b>" in text  # shown, not interpreted
    assert "dataset: cifar10 (jpeg)" in text
    assert "truck & trailer_$5" in text


def test_partial_runs_are_stamped(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2), partial=True)
    folder.add((0, 1, 2), {"1": (1, 1, 2)}, partial=True, source_bits="32")
    path = folder.write()
    build(path, FORMATS)
    for name in ("leaderboard.md", "leaderboard.tex", "report.html"):
        text = (path / name).read_text(encoding="utf-8")
        assert "partial: the evaluation images were cut" in text
        assert "transfer only: 1 of 1 rows" in text


def test_a_run_in_which_everything_failed_has_a_report(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)}, attack="random", control=True)
    folder.fail("Traceback: out of <memory>")
    path = folder.write()
    build(path, FORMATS)
    assert "out of &lt;memory&gt;" in (path / "report.html").read_text(encoding="utf-8")
    row = next(csv_module.DictReader(io.StringIO((path / "leaderboard.csv").read_text())))
    assert (row["status"], row["asr"], row["n_eligible"], row["rank"]) == ("error", "", "", "")


def test_only_the_formats_asked_for_are_written(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    path = folder.write()
    assert build(path, ["md"]) == (path / "leaderboard.md",)
    with pytest.raises(UnknownNameError, match="unknown format 'htm'. Did you mean: html"):
        build(path, ["csv", "htm"])
    assert not (path / "leaderboard.csv").exists()


def test_pictures_of_an_earlier_report_go(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    path = folder.write()
    (path / "plots").mkdir()
    (path / "plots" / "transfer_old.png").write_bytes(b"")
    for name in ("transfer_mine.png", "mine.png"):
        (path / "plots" / name).write_bytes(b"")
    (path / ".report.json").write_text(json.dumps({"files": {"plots/transfer_old.png": ""}}))
    build(path, ["html"])
    assert not (path / "plots" / "transfer_old.png").exists()
    assert (path / "plots" / "transfer_mine.png").exists(), "no report says that it wrote it"
    assert (path / "plots" / "mine.png").exists()


@pytest.mark.parametrize("name", ["manifest.json", "cells.parquet", "outcomes.parquet", "examples.safetensors"])
def test_a_missing_file_is_named(new_folder: Callable[..., Any], name: str) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    path = folder.write()
    (path / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: expected a file of a finished run"):
        build(path, FORMATS)


def test_a_manifest_that_is_no_object_is_refused(new_folder: Callable[..., Any]) -> None:
    folder = new_folder((0, 1, 2))
    folder.add((0, 1, 2), {"1": (1, 1, 2)})
    path = folder.write()
    for text, message in (("[1]", "found list"), ("{", "expected JSON")):
        (path / "manifest.json").write_text(text)
        with pytest.raises(ArtifactError, match=message):
            build(path, ["csv"])


def test_pictures_are_pictures_without_a_date(report: Path) -> None:
    for path in (report / "plots").glob("*.png"):
        with Image.open(path) as image:
            assert image.size > (300, 100)
            assert "Software" not in image.info
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.png", path.name)
    kinds = {path.name.split("_")[0] for path in (report / "plots").glob("*.png")}
    assert kinds == {"bits", "transfer", "patches", "pasted"}


def test_every_check_is_explained() -> None:
    assert list(EXPLANATIONS) == [f"V{number}" for number in range(1, 18)]
    assert all(all(part.strip() for part in explanation) for explanation in EXPLANATIONS.values())


def test_the_manifest_is_shown(report: Path) -> None:
    text = "".join(_parsed(report / "report.html").text)
    names = set(json.loads((report / "manifest.json").read_text()))
    assert names
    assert {name for name in names if name not in text} == set()
