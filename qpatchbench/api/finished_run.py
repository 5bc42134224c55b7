"""A run folder in Python: rows and outcomes as tables, patches, manifest, and a page for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qpatchbench.report.exchange.passport import TravellingPatch, travelling
from qpatchbench.report.leaderboard.board import Leaderboard
from qpatchbench.runs.layout import OUTCOMES
from qpatchbench.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20  # rows of a notebook's page
SHORT = ("attack", "size", "source", "target", "asr", "asr_low", "asr_high", "asr_control", "clean_accuracy", "checks")


class FinishedRun:
    """What a run left behind; everything is read when it is asked for.

    Attributes:
        folder: where it lies.

    Raises:
        ArtifactError: the folder is none of a run, or is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._run = Run(self.folder)
        self._leaderboard = Leaderboard(self._run)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, hashes, the resolved suite, and what every job did."""
        return self._run.manifest

    @property
    def rows(self) -> pd.DataFrame:
        """The leaderboard: one row for each thing compared, every column of leaderboard.csv; rates in percent."""
        return self._leaderboard.frame

    @property
    def board(self) -> pd.DataFrame:
        """The rows in few columns: patch, source, target, ASR with its 95 % interval, control, accuracy, checks."""
        import pandas as pd

        numbers = ("asr", "asr_low", "asr_high", "asr_control", "clean_accuracy")
        records = [
            {
                "attack": row.attack,
                "size": row.moved_size,
                "source": row.source_text,
                "target": row.target,
                **{name: row.number(name) for name in numbers},
                "checks": row.checks if row.status == "ok" else row.status,
            }
            for row in self._leaderboard.rows
        ]
        return pd.DataFrame(records, columns=list(SHORT))

    @property
    def cells(self) -> pd.DataFrame:
        """One record for each patch on each network, controls among them, with counts."""
        import pandas as pd

        return pd.DataFrame([cell.row() for cell in self._run.cells])

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """One row for each image under each goal's patch of each cell: label, prediction without and with it, place."""
        import pandas as pd

        return pd.read_parquet(self.folder / OUTCOMES)

    @property
    def patches(self) -> list[TravellingPatch]:
        """Patches that are no controls, with their passports."""
        return travelling(self.folder)

    @property
    def errors(self) -> dict[str, str]:
        """Label of every job that failed -> the last line of what it raised."""
        return {job["label"]: job["error"] for job in self.manifest["jobs"] if "error" in job}

    def __repr__(self) -> str:
        state = "complete" if self.manifest["complete"] else f"{len(self.errors)} jobs failed"
        return f"Run({str(self.folder)!r}, {len(self._leaderboard.rows)} rows, {state})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the suite, and the first rows of the short board."""
        from html import escape

        board = self.board.head(SHOWN)
        table: str = board.to_html(index=False, float_format="{:.1f}".format, na_rep="", border=0, escape=True)
        rest = len(self._leaderboard.rows) - len(board)
        more = f"<p>and {rest} more rows</p>" if rest > 0 else ""
        return f"<p><b>{escape(str(self.manifest['suite']))}</b>, {escape(str(self.folder))}</p>{table}{more}"


def leaderboard(runs: Iterable[FinishedRun | Path | str]) -> pd.DataFrame:
    """The rows of several runs in one table, with the folder of each in the first column."""
    import pandas as pd

    found = [run if isinstance(run, FinishedRun) else FinishedRun(run) for run in runs]
    tables = [run.rows.assign(run=str(run.folder)) for run in found]
    joined = pd.concat(tables, ignore_index=True)
    return joined[["run", *(name for name in joined.columns if name != "run")]]
