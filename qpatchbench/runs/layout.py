"""Every file name of a run folder, once."""

from __future__ import annotations

from collections.abc import Mapping

MANIFEST = "manifest.json"
GROUP_ROWS = 2**17  # of outcomes.parquet, unless a single cell has more
CELLS, OUTCOMES, EXAMPLES = "cells.parquet", "outcomes.parquet", "examples.safetensors"
LEADERBOARD = "leaderboard.csv"
REPORT_PAGE, REPORT_FACTS = "report.html", ".report.json"
CLAIM = ".run.json"  # whose folder it is
PATCHES, PLOTS = "patches", "plots"  # folders
SUMS, BIBTEX = "SHA256SUMS", "entry.bib"  # of an entry

# Kind of job -> the tables among its artifact's facts and their files.
TABLES: Mapping[str, Mapping[str, str]] = {
    "cost": {"rows": "costs.parquet"},
    "similarity": {"rows": "similarity.parquet"},
    "maps": {"gradients": "gradients.parquet", "gradcam": "gradcam.parquet"},
}
MAPS = "maps.safetensors"
ANALYSIS_FILES = (*(file for files in TABLES.values() for file in files.values()), MAPS)

# What a number can be counted again without, and what an entry may leave out.
PICTURES = (f"{PATCHES}/", MAPS)

KEY_DIGITS = 16  # of a job's key, as records, file names and messages show it


def patch_file(short_key: str) -> str:
    """Name of a patch's file within its run folder, from the key that records name it by."""
    return f"{PATCHES}/{short_key}.safetensors"
