"""One row of a leaderboard: what was compared, its rates in percent with their intervals, its counts, and its names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from qpatchbench.report.leaderboard.keys import ROW_KEY
from qpatchbench.runs.records import QUERY_BUDGETS, CellRecord
from qpatchbench.statistics.intervals import Interval, wilson

_ENDS = ("low", "high")
ACCURACIES = ("clean_accuracy", "robust_accuracy")
RATES = ("asr", "asr_low", "asr_high", "asr_targeted", "asr_common", "asr_control", "asr_net", *ACCURACIES)
QUERY_RATES = tuple(f"asr_{budget}_queries" for budget in QUERY_BUDGETS)
MORE_RATES = (
    *(f"{name}_{end}" for name in ("asr_common", "asr_control", "asr_net") for end in _ENDS),
    *("asr_grey", "asr_worst"),
    *QUERY_RATES,
    *(f"{name}_{end}" for name in ACCURACIES for end in _ENDS),
    "certified_accuracy",
    *("asr_targeted_best", "asr_targeted_least", "collapse"),
)
COUNTS = ("n_images", "n_eligible")
MORE_COUNTS = (
    *("n_clean_correct", "n_fooled", "n_hit", "n_robust"),
    *("n_common", "n_common_fooled", "n_control_fooled", "n_grey_fooled", "n_worst_fooled", "n_certified"),
)
COLUMNS = (
    *ROW_KEY[:8],
    "area_percent",
    *ROW_KEY[8:14],
    "seeds",
    *COUNTS,
    *RATES,
    *("lineage", "checks", "partial"),
    *ROW_KEY[14:],
    *MORE_RATES,
    *("transfer_ratio", "queries_median"),
    *MORE_COUNTS,
    *("rank", "transfer_only", "status"),
)
SIZES = ("parameters", "multiplications", "model_bytes", "latency_ms")
RUNTIME = ("agreement", "asr_runtime")
# Columns that a leaderboard has where any of its rows does.
OPTIONAL = (*SIZES, *RUNTIME)
INTEGERS = frozenset({"seeds", *COUNTS, *MORE_COUNTS, "rank", *SIZES[:3]})
_FLOATS = frozenset({"area_percent", *RATES, *MORE_RATES, "transfer_ratio", "queries_median", SIZES[3], *RUNTIME})
NUMBERS = INTEGERS | _FLOATS
_LATER = {"transformation": "", "source_preprocessor": "none"}  # columns that the first published boards lack

FLOAT_MODE = "fp"
SAME_NETWORK, EXTERNAL = "same-network", "external"
OWN, OTHER_TRAINING, OTHER_ARCHITECTURE, CONTROL_PATCH = "own", "other training", "other architecture", "control"
ELSEWHERE = "elsewhere"  # of a patch that somebody else made


@dataclass(frozen=True)
class Row:
    """A row; the fields of ROW_KEY identify it.

    Attributes:
        numbers: the other columns of COLUMNS that are numbers, rates in 0..100; what is undefined is NaN or left out.
        counted_intervals: whether the intervals of the accuracies were computed from counts, see `read_row`.
    """

    dataset: str
    model: str
    defense: str
    preprocessor: str
    quantization: str
    attack: str
    patch_height: int
    patch_width: int
    source_model: str
    source_defense: str
    source_quantization: str
    source_bits: str
    target_bits: str
    seen: str
    transformation: str
    source_preprocessor: str
    lineage: str = ""
    checks: str = ""
    partial: bool = False
    transfer_only: bool = False
    status: str = "ok"
    numbers: Mapping[str, float] = field(default_factory=dict, hash=False)
    counted_intervals: bool = False

    @cached_property
    def key(self) -> tuple[str | int, ...]:
        """What identifies the row: everything but the seed."""
        return tuple(getattr(self, name) for name in ROW_KEY)

    def number(self, name: str) -> float:
        """A rate, ratio or share; NaN where it is undefined."""
        return self.numbers.get(name, math.nan)

    def count(self, name: str) -> int:
        """A count; 0 where nothing was counted."""
        return int(self.numbers.get(name, 0))

    def measured(self, name: str) -> bool:
        """Whether a number is there."""
        return not math.isnan(self.number(name))

    def interval(self, rate: str) -> Interval:
        """The 95 % interval of a rate in percent; NaN where the leaderboard has none."""
        return Interval(self.number(f"{rate}_low"), self.number(f"{rate}_high"))

    def text(self, name: str) -> str:
        """A column as leaderboard.csv states it, four decimals, or a name of the row; empty where there is no value."""
        return stated(self.numbers.get(name) if name in NUMBERS else getattr(self, name))

    def rounded(self) -> Row:
        """With its numbers as leaderboard.csv states them, so that a run and what is published of it say the same."""
        return replace(self, numbers={name: round(value, 4) for name, value in self.numbers.items()})

    @property
    def size(self) -> str:
        """Height x width of the patch in pixels, `6x6`."""
        return f"{self.patch_height}x{self.patch_width}"

    @property
    def moved_size(self) -> str:
        """The size, and how the finished patch was moved."""
        return f"{self.size} {self.transformation}" if self.transformation else self.size

    @property
    def base(self) -> str:
        """The dataset without its note."""
        return base_name(self.dataset)

    @property
    def defended(self) -> str:
        """The defense of the target with what stands before it: `pbat + jedi`."""
        return self.defense + behind(self.preprocessor)

    @property
    def target(self) -> str:
        """The attacked network: `resnet20 qat qat@4 + jedi`."""
        return f"{self.model} {self.defense} {self.quantization}@{self.target_bits}{behind(self.preprocessor)}"

    @property
    def source_text(self) -> str:
        """Where the patch comes from; model and defense only where they are not the target's."""
        if not self.source_model:
            return ELSEWHERE if self.lineage == EXTERNAL else "none"
        pairs = ((self.source_model, self.model), (self.source_defense, self.defense))
        names = [source for source, target in pairs if source != target]
        seen = f" ({self.seen})" if self.seen else ""
        bits = f"{self.source_quantization}@{self.source_bits}"
        return " ".join([*names, bits]) + behind(self.source_preprocessor) + seen

    @property
    def label(self) -> str:
        """The row in one line: patch, source and target."""
        return f"{self.attack} {self.moved_size} from {self.source_text} on {self.target}"

    @property
    def source(self) -> str:
        """How the patch's source is related to the target: one of five words."""
        if not self.source_model:
            return ELSEWHERE if self.lineage == EXTERNAL else CONTROL_PATCH
        if self.source_model != self.model:
            return OTHER_ARCHITECTURE
        return OWN if self.source_defense == self.defense else OTHER_TRAINING

    @property
    def made_on(self) -> str:
        """The backbone on which the patch was made; the same for every own one."""
        return self.source if self.source in (OWN, ELSEWHERE) else f"{self.source_model} {self.source_defense}"

    @property
    def same_bits(self) -> str:
        """Whether source and target have the same bits: yes or no."""
        return "yes" if self.source_bits == self.target_bits else "no"

    @property
    def failed_checks(self) -> str:
        """The failed ones among its checks, `fail V2 V6`; empty where none failed."""
        return next((part for part in self.checks.split("; ") if part.startswith("fail")), "")


def columns_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Columns of a leaderboard: all of COLUMNS, and of OPTIONAL those that any row has."""
    return (*COLUMNS, *(name for name in OPTIONAL if any(row.measured(name) for row in rows)))


def row_of(cell: CellRecord) -> Row:
    """The row to which a cell belongs, without numbers."""
    return Row(**{name: getattr(cell, name) for name in ROW_KEY}, lineage=cell.lineage)


def read_row(record: Mapping[str, str]) -> Row:
    """A line of a leaderboard.csv: the one place where its text is parsed.

    Leaderboards that were published before accuracies had intervals have no outcomes of single images beside them, so
    that nothing but Wilson's interval can stand in: over the images of one seed, which is wide enough where seeds and
    target classes agree, and knows nothing of other seeds.

    Raises:
        KeyError: no column for a field of the key.
        ValueError: a number is no number.
    """
    numbers: dict[str, float] = {}
    for name in NUMBERS:
        if record.get(name):
            numbers[name] = int(record[name]) if name in INTEGERS else float(record[name])
    lacking = [name for name in ACCURACIES if name in numbers and f"{name}_low" not in record]
    for name in lacking:
        images = int(numbers["n_images"])
        low, high = wilson(round(numbers[name] / 100 * images), images)
        numbers |= {f"{name}_low": 100 * low, f"{name}_high": 100 * high}
    key = {name: record[name] if name in record else _LATER[name] for name in ROW_KEY}
    sizes = {name: int(key[name]) for name in ("patch_height", "patch_width")}
    return Row(
        **{**key, **sizes},  # type: ignore[arg-type]  # sizes are the two integers
        lineage=record.get("lineage", ""),
        checks=record.get("checks", ""),
        partial=record.get("partial") == "True",
        transfer_only=record.get("transfer_only") == "True",
        status=record.get("status", "ok"),
        numbers=numbers,
        counted_intervals=bool(lacking),
    )


def base_name(dataset: str) -> str:
    """A dataset without its note.

    >>> base_name("cifar10 (jpeg)")
    'cifar10'
    """
    return dataset.partition(" (")[0]


def behind(preprocessor: str) -> str:
    """What stands before a network, behind its name.

    >>> behind("jedi"), behind("none")
    (' + jedi', '')
    """
    return "" if preprocessor == "none" else f" + {preprocessor}"


def stated(value: object) -> str:
    """A value as the .csv files of a run state it: four decimals, empty where there is none.

    >>> stated(29.49024), stated(3), stated(float("nan")), stated(None)
    ('29.4902', '3', '', '')
    """
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return "" if value is None else str(value)
