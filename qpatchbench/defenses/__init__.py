"""Training-time defenses. Adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

QAT = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, arXiv 1806.08342"
EMPIR = "Sen, Ravindran, Raghunathan 2020, EMPIR: Ensembles of mixed precision deep networks, arXiv 2004.10162"
DWQ = "Fu et al. 2021, Double-Win Quant: Aggressively winning robustness of quantized deep neural networks, ICML"

ANY_PRECISION = "Yu et al. 2021, Any-precision deep neural networks, AAAI, arXiv 1911.07346"
QADTR = "Guesmi, Ouni, Shafique 2025, Breaking the limits of quantization-aware defenses, arXiv 2503.07058"

CATALOGUE: dict[str, Entry] = {
    "any_precision": Entry(
        "qpatchbench.defenses.any_precision:AnyPrecision",
        "joint training of all bit-widths, the higher ones teaching the lower ones",
        ANY_PRECISION,
    ),
    "dwq": Entry(
        "qpatchbench.defenses.dwq:DoubleWinQuant", "adversarial training at one random bit-width per step", DWQ
    ),
    "empir": Entry("qpatchbench.defenses.empir:Empir", "vote of a float and two low-precision networks", EMPIR),
    "none": Entry("qpatchbench.defenses.none:NoDefense", "ordinary float training, nothing else"),
    "qadtr": Entry(
        "qpatchbench.defenses.qadtr:Qadtr",
        "adversarial training with patches at random bit-widths and with perturbed gradients",
        QADTR,
    ),
    "qat": Entry(
        "qpatchbench.defenses.qat:QuantizationAwareTraining",
        "quantization-aware training, joint over all bit-widths or one network per bit-width",
        QAT,
    ),
}
