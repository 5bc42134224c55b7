"""A measurement of one patch on one network: counts, rates with intervals, and every prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qpatchbench.runs.records import GoalCounts
from qpatchbench.statistics.intervals import Array, Interval, bootstrap_rates, percentile_interval, wilson

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measurement:
    """What a patch did to a network on N images.

    Attributes:
        labels: (N,) class ids.
        clean: (N,) predictions without a patch.
        patched: (goals, N) predictions under each goal's patch.
        fooled, eligible: (goals, N) boolean, what `counts` counts.
        counts: one per goal; eligible are images right without a patch whose label is not the target.
        control: the same for uniform noise of the same square at the same places.
    """

    labels: Array
    clean: Array
    patched: Array
    fooled: Array
    eligible: Array
    counts: tuple[GoalCounts, ...]
    control: tuple[GoalCounts, ...]

    @property
    def asr(self) -> float:
        """Share of the eligible images that are no longer right, in percent over all goals; NaN without any."""
        return _rate("n_fooled", self.counts)

    @property
    def asr_interval(self) -> Interval:
        """95 % interval of `asr`, in percent: Wilson's for one goal; the bootstrap for several, which share images."""
        if len(self.counts) == 1:
            low, high = wilson(int(self.fooled.sum()), int(self.eligible.sum()))
        else:
            low, high = percentile_interval(bootstrap_rates(self.fooled[None], self.eligible[None]))
        return Interval(100 * low, 100 * high)

    @property
    def asr_targeted(self) -> float:
        """Share of the eligible images that become the target, in percent."""
        return _rate("n_hit", self.counts)

    @property
    def asr_control(self) -> float:
        """`asr` of uniform noise: what covering the image does."""
        return _rate("n_fooled", self.control)

    @property
    def clean_accuracy(self) -> float:
        """Share of the images that are right without a patch, in percent."""
        return 100 * float(np.mean(self.clean == self.labels))

    @property
    def summary(self) -> dict[str, float]:
        """The rates by name, as a row of a table."""
        low, high = self.asr_interval
        return {
            "asr": self.asr,
            "asr_low": low,
            "asr_high": high,
            "asr_targeted": self.asr_targeted,
            "asr_control": self.asr_control,
            "clean_accuracy": self.clean_accuracy,
            "n_eligible": sum(each.n_eligible for each in self.counts),
        }

    @property
    def outcomes(self) -> pd.DataFrame:
        """One row for each goal and image."""
        import pandas as pd

        goals, images = self.patched.shape
        columns: dict[str, Any] = {
            "goal": np.repeat([each.goal for each in self.counts], images),
            "image": np.tile(np.arange(images), goals),
            "label": np.tile(self.labels, goals),
            "clean_prediction": np.tile(self.clean, goals),
            "patched_prediction": self.patched.ravel(),
        }
        return pd.DataFrame(columns)

    def __repr__(self) -> str:
        low, high = self.asr_interval
        return (
            f"Measurement(asr {self.asr:.1f} % [{low:.1f}, {high:.1f}], noise {self.asr_control:.1f} %, "
            f"clean accuracy {self.clean_accuracy:.1f} %, {len(self.labels)} images)"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import pandas as pd

        table: str = pd.DataFrame([self.summary]).to_html(index=False, float_format="{:.1f}".format, border=0)
        return table


def _rate(name: str, counts: tuple[GoalCounts, ...]) -> float:
    eligible = sum(each.n_eligible for each in counts)
    return 100 * sum(getattr(each, name) for each in counts) / eligible if eligible else float("nan")
