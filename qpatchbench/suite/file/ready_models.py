"""Models that are deployed already, which no attack can follow a gradient through: what a suite may ask of them."""

from __future__ import annotations

from collections.abc import Iterator

from qpatchbench.errors import suggestion
from qpatchbench.suite.file.schema import Suite
from qpatchbench.suite.file.source import KeyPath
from qpatchbench.types import Bits


def ready_models(suite: Suite) -> Iterator[tuple[KeyPath, str]]:
    """Yield (path in the file, problem): siblings that are not there, and attacks that could be crafted nowhere."""
    trained = [model.title for model in suite.models if model.ready is None]
    elsewhere = any(source == "all" or isinstance(source, Bits) for source in suite.transfer.sources)
    for index, model in enumerate(suite.models):
        if model.ready is None:
            continue
        sibling = model.ready.sibling
        if sibling is not None and sibling not in trained:
            yield (
                ("models", index, "sibling"),
                f"expected another model of this suite, which is not deployed itself, found {sibling!r}."
                f"{suggestion(sibling, trained)}",
            )
            continue
        reached = elsewhere and (sibling is not None or (suite.transfer.architectures == "all" and trained))
        for number, attack in enumerate(suite.attacks):
            kept = suite.keeps(model=model.title, attack=attack.title, quantizer=model.ready.runtime)
            if attack.access == "gradient" and not reached and kept:
                scores = f"{attack.from_scores}, its part that needs none; or another" if attack.from_scores else "an"
                yield (
                    ("attacks", number),
                    f"{attack.title} follows a gradient, and {model.title} answers from a file that gives none: craft "
                    f"it on the float network that the file was made from. Expected that network in models, its name "
                    f"as sibling: of {model.title}, and 32 in transfer.sources; or {scores} attack "
                    "from scores alone (`qpatchbench list attacks` says which)",
                )
