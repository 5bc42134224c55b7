"""The record of a cell: counts and per-image outcomes, never only rates.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qpatchbench.labels import checked_labels

SCHEMA_VERSION = 1
# Queries per image at which the success of score-based attacks is stated.
QUERY_BUDGETS = (1_000, 5_000, 10_000)

# A name as tables and terminals show it; of several networks, their names joined; or nothing.
Name: TypeAlias = Annotated[str, AfterValidator(checked_labels)]
Verdict = Literal["pass", "warn", "fail", "not-run"]
Lineage = Literal["same-network", "shared-weights", "fine-tuned", "sibling", "independent", "ensemble", "external"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Record):
    """Outcome of one validity check; `evaluation.checks.explanations` has the meaning of each."""

    id: str = Field(description="V1..V17")
    verdict: Verdict
    message: str = Field(default="", description="what was found, in words")
    figures: dict[str, float] = Field(default_factory=dict, description="the numbers behind the verdict")


class GoalCounts(_Record):
    """Integer counts of one goal over the evaluation images D; C is the set classified correctly when clean."""

    goal: str = Field(pattern=r"^(untargeted|[0-9]+)$", description="class id of the target, or untargeted")
    n_eligible: int = Field(description="|{i in C, label != target}|; the denominator of asr and asr_targeted")
    n_fooled: int = Field(description="eligible and patched prediction != label")
    n_hit: int = Field(description="eligible and patched prediction == target; 0 when untargeted")
    n_robust: int = Field(description="clean and patched both right, over all of D")
    n_left_alone: int = Field(
        default=0,
        description="in C, label != target, and not eligible, since the attack left the image alone: its source is "
        "wrong without a patch",
    )


class QueryCounts(_Record):
    """How many of the eligible images a score-based attack had fooled within a budget of queries, over all goals."""

    budget: int = Field(description="images shown to the network, for each attacked image")
    n_fooled: int = Field(description="eligible, patched prediction != label, first success within the budget")


class CellRecord(_Record):
    """One patch evaluated on one target network."""

    schema_version: int = SCHEMA_VERSION
    cell: Name = Field(description="key of the evaluation, 16 hex digits")
    status: Literal["ok", "error"] = "ok"
    error: str = Field(default="", description="traceback of a failed job")
    control: bool = Field(description="added by the suite to measure occlusion alone")
    partial: bool = Field(description="--limit cut the evaluation images")
    dataset: Name
    model: Name
    defense: Name
    preprocessor: Name = Field(default="none", description="what stands before the target; none: the bare network")
    quantization: Name = Field(description="fp, qat, ptq-minmax, ptq-percentile, dynamic, ...")
    target_bits: Name = Field(description="32, 4, w4a8, ...")
    seed: int
    attack: Name
    patch_kind: Literal["universal", "per_image"]
    access: Literal["gradient", "scores", "none"] = Field(
        default="gradient", description="what the attack saw of its source"
    )
    goal_kind: Literal["targeted", "untargeted"]
    patch_height: int
    patch_width: int
    places: Literal["given", "chosen"] = Field(
        default="given", description="given by the suite, the same for all attacks, or chosen by the attack"
    )
    transformation: Name = Field(default="", description="how the finished patch was moved: shift 2,2 or rotation 10")
    image_height: int
    image_width: int
    source_model: Name = Field(
        description="empty for controls and patches from elsewhere, like the other source_ fields"
    )
    source_defense: Name
    source_preprocessor: Name = Field(
        default="none", description="what stood before the source while crafting; none for controls too"
    )
    source_quantization: Name
    source_bits: Name
    seen: str = Field(default="", description="seen or unseen in training; empty where no patch was trained on")
    lineage: Lineage | Literal[""] = Field(
        description="how the weights of source and target are related; ensemble: the target is one of several sources; "
        "sibling: the target is a deployed file that is said to be made from the source's model; "
        "external: the patch was made elsewhere"
    )
    patch: Name = Field(description="key of the patch")
    network: Name = Field(description="key of the target network")
    plugins: str = Field(
        default="",
        description="components from outside that had a part in it: kind, name, package, version, SHA-256 of the "
        "source; empty where all are built in",
    )
    n_images: int = 0
    n_clean_correct: int = 0
    counts: tuple[GoalCounts, ...] = ()
    queries: tuple[QueryCounts, ...] = Field(default=(), description="empty where queries are no cost")
    n_certified: int | None = Field(
        default=None,
        description="images that no patch of this size can turn from their label, as the preprocessor proves; None "
        "where it proves nothing for this patch",
    )
    queries_median: float | None = Field(default=None, description="queries of the median fooled image")
    forward_passes: int | None = Field(
        default=None,
        description="images shown to the sources while the patch was crafted, over all goals; each attacked image of a "
        "per-image attack has its share, 1 in n_images times the goals; empty in runs of before",
    )
    backward_passes: int | None = Field(default=None, description="images whose gradient was taken, counted likewise")
    parameters: int | None = Field(default=None, description="weights and biases of the target")
    multiplications: int | None = Field(default=None, description="multiply-accumulates per image of the target")
    model_bytes: int | None = Field(
        default=None, description="of the target's file, or of its parameters at their bits where there is none"
    )
    latency_ms: float | None = Field(
        default=None, description="median of an image, alone, in the runtime that answers; None where none does"
    )
    checks: tuple[Check, ...] = ()

    def totals(self) -> dict[str, int]:
        """Counts summed over goals."""
        names = ("n_eligible", "n_fooled", "n_hit", "n_robust")
        return {name: sum(getattr(count, name) for count in self.counts) for name in names}

    def row(self) -> dict[str, Any]:
        """The record as one flat row of cells.parquet; counts and checks as JSON text."""
        plain = self.model_dump(mode="json", exclude={"counts", "queries", "checks"})
        return {
            **plain,
            **self.totals(),
            "counts": "[" + ",".join(count.model_dump_json() for count in self.counts) + "]",
            "queries": "[" + ",".join(count.model_dump_json() for count in self.queries) + "]",
            "checks": "[" + ",".join(check.model_dump_json() for check in self.checks) + "]",
        }
