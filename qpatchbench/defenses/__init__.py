"""Training-time defenses. Adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

QAT = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, arXiv 1806.08342"

CATALOGUE: dict[str, Entry] = {
    "none": Entry("qpatchbench.defenses.none:NoDefense", "ordinary float training, nothing else"),
    "qat": Entry(
        "qpatchbench.defenses.qat:QuantizationAwareTraining",
        "quantization-aware training, joint over all bit-widths or one network per bit-width",
        QAT,
    ),
}
