"""The picture of the README, drawn from results/protocol/cifar: `python docs/leaderboard.py` from the root."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "results/protocol/cifar/leaderboard.csv"
PICTURE = ROOT / "docs/leaderboard.png"
TRANSFERRED, WHITE_BOX, NOISE = "LaVAN 6x6 of the undefended network", "patch_apgd 6x6, white box", "random noise 6x6"
COLOURS = {TRANSFERRED: "#0072b2", WHITE_BOX: "#d55e00", NOISE: "#888888"}
BITS = (32, 4, 2)
PARTS = ("qadtr_without_", "triqdef_without_fdp", "triqdef_without_gpdp", "triqdef_without_bact")  # not shown


def rows_at(board: pd.DataFrame, bits: int) -> dict[str, pd.DataFrame]:
    """Per kind of patch the rows of a bit-width, one per defense, indexed by it."""
    here = board[(board.target_bits.astype(str) == str(bits)) & (board.patch_height == 6) & (board.model == "resnet20")]
    seen = here[(here.attack == "lavan") & (here.seen == "seen")]
    own = here[(here.attack == "patch_apgd") & here.lineage.eq("same-network")]
    # The control is that of the very images and places of the row beside it.
    noise = seen.assign(asr=seen.asr_control, asr_low=seen.asr_control_low, asr_high=seen.asr_control_high)
    found = {TRANSFERRED: seen, WHITE_BOX: own, NOISE: noise}
    for kind, rows in found.items():
        if len(rows) != rows.defense.nunique() or rows.empty:
            raise SystemExit(f"{BOARD}: expected one row of {kind} per defense at {bits} bits, found {len(rows)}")
    return {kind: rows.set_index("defense") for kind, rows in found.items()}


def draw() -> None:
    """Three panels of intervals, defenses ordered by the white-box ASR at 32 bits."""
    board = pd.read_csv(BOARD, keep_default_na=False)
    columns = [name for name in board if name.startswith(("asr", "clean"))]
    board[columns] = board[columns].apply(pd.to_numeric, errors="coerce")
    board = board[~board.defense.str.startswith(PARTS)]
    order = rows_at(board, BITS[0])[WHITE_BOX].sort_values("asr", ascending=False).index
    mpl.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(BITS), figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, bits in zip(axes, BITS, strict=True):
        found = rows_at(board, bits)
        for kind, rows in found.items():
            rows = rows.reindex(order)
            bars = (rows.asr - rows.asr_low, rows.asr_high - rows.asr)
            axis.errorbar(
                rows.asr, range(len(order)), xerr=bars, fmt="o", ms=3, lw=1.2, color=COLOURS[kind], label=kind
            )
        for place, accuracy in enumerate(found[TRANSFERRED].reindex(order).clean_accuracy):
            axis.text(104, place, f"{accuracy:.1f}", va="center", ha="right", color="#444444")
        axis.text(104, len(order) - 0.3, "clean, %", va="bottom", ha="right", color="#444444")
        axis.set(title=f"{bits} bits", xlim=(0, 106), xlabel="attack success rate, % [95 %]")
        axis.grid(axis="x", lw=0.4, alpha=0.6)
    axes[0].set_yticks(range(len(order)), order)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    draw()
