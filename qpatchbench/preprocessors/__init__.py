"""Inference-time defenses on the input image. Adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

CATALOGUE: dict[str, Entry] = {
    "none": Entry("qpatchbench.preprocessors.none:NoPreprocessor", "the bare network: it sees the images as they are"),
}
