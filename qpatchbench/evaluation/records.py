"""What is kept of every cell: counts and per-image outcomes, never only rates. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Verdict = Literal["pass", "warn", "fail", "not-run"]
Lineage = Literal["same-network", "shared-weights", "fine-tuned", "independent"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(_Record):
    """Outcome of one validity check; `evaluation.explanations` says when it is raised, what it means, what to do."""

    id: str = Field(description="V1..V16")
    verdict: Verdict
    message: str = Field(default="", description="what was found, in words")
    figures: dict[str, float] = Field(default_factory=dict, description="the numbers behind the verdict")


class GoalCounts(_Record):
    """Integer counts of one goal over the evaluation images D; C is the set classified correctly when clean."""

    goal: str = Field(description="class id of the target, or untargeted")
    n_eligible: int = Field(description="|{i in C, label != target}|; the denominator of asr and asr_targeted")
    n_fooled: int = Field(description="eligible and patched prediction != label")
    n_hit: int = Field(description="eligible and patched prediction == target; 0 when untargeted")
    n_robust: int = Field(description="clean and patched both right, over all of D")


class CellRecord(_Record):
    """One patch evaluated on one target network."""

    schema_version: int = SCHEMA_VERSION
    cell: str = Field(description="key of the evaluation, 16 hex digits")
    status: Literal["ok", "error"] = "ok"
    error: str = Field(default="", description="traceback of a failed job")
    control: bool = Field(description="added by the suite to measure occlusion alone")
    partial: bool = Field(description="--limit cut the evaluation images")
    dataset: str
    model: str
    defense: str
    preprocessor: str = "none"
    quantization: str = Field(description="fp, qat, ptq-minmax, ptq-percentile, dynamic, ...")
    target_bits: str = Field(description="32, 4, w4a8, ...")
    seed: int
    attack: str
    patch_kind: Literal["universal", "per_image"]
    goal_kind: Literal["targeted", "untargeted"]
    patch_height: int
    patch_width: int
    image_height: int
    image_width: int
    source_model: str = Field(description="empty for controls, like the other source_ fields")
    source_defense: str
    source_quantization: str
    source_bits: str
    seen: str = Field(default="", description="seen or unseen in training; empty where no patch was trained on")
    lineage: Lineage | Literal[""] = Field(description="how the weights of source and target are related")
    patch: str = Field(description="key of the patch")
    network: str = Field(description="key of the target network")
    n_images: int = 0
    n_clean_correct: int = 0
    counts: tuple[GoalCounts, ...] = ()
    checks: tuple[Check, ...] = ()

    def totals(self) -> dict[str, int]:
        """Counts summed over goals."""
        names = ("n_eligible", "n_fooled", "n_hit", "n_robust")
        return {name: sum(getattr(count, name) for count in self.counts) for name in names}

    def row(self) -> dict[str, Any]:
        """The record as one flat row of cells.parquet; counts and checks as JSON text."""
        plain = self.model_dump(mode="json", exclude={"counts", "checks"})
        return {
            **plain,
            **self.totals(),
            "counts": "[" + ",".join(count.model_dump_json() for count in self.counts) + "]",
            "checks": "[" + ",".join(check.model_dump_json() for check in self.checks) + "]",
        }
