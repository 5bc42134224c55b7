"""Catalogue of training-time defenses: adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

QAT = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, arXiv 1806.08342"
EMPIR = "Sen, Ravindran, Raghunathan 2020, EMPIR: Ensembles of mixed precision deep networks, arXiv 2004.10162"
DWQ = "Fu et al. 2021, Double-Win Quant: Aggressively winning robustness of quantized deep neural networks, ICML"

ANY_PRECISION = "Yu et al. 2021, Any-precision deep neural networks, AAAI, arXiv 1911.07346"
MADRY = "Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, ICLR, arXiv 1706.06083"
RAO = "Rao, Stutz, Schiele 2020, Adversarial training against location-optimized adversarial patches, arXiv 2005.02313"
PBCAT = "Li et al. 2025, PBCAT: Patch-based composite adversarial training, ICCV, arXiv 2506.23581"
TRIQDEF = "Guesmi, Ouni, Shafique 2026, TriQDef: Disrupting semantic and gradient alignment, ICLR, arXiv 2508.12132"
QADTR = "Guesmi, Ouni, Shafique 2025, Breaking the limits of quantization-aware defenses, arXiv 2503.07058"

CATALOGUE: dict[str, Entry] = {
    "any_precision": Entry(
        "qpatchbench.defenses.any_precision:AnyPrecision",
        "joint training of all bit-widths, the higher ones teaching the lower ones",
        ANY_PRECISION,
    ),
    "at_pgd": Entry(
        "qpatchbench.defenses.at_pgd:PgdAdversarialTraining",
        "adversarial training with PGD through fake quantizers, one network per bit-width",
        MADRY,
    ),
    "at_pgd_float": Entry(
        "qpatchbench.defenses.at_pgd:FloatPgdAdversarialTraining",
        "adversarial training with PGD on the float network",
        MADRY,
    ),
    "dwq": Entry(
        "qpatchbench.defenses.dwq:DoubleWinQuant", "adversarial training at one random bit-width per step", DWQ
    ),
    "empir": Entry("qpatchbench.defenses.empir:Empir", "vote of a float and two low-precision networks", EMPIR),
    "none": Entry("qpatchbench.defenses.none:NoDefense", "ordinary float training, nothing else"),
    "pbat": Entry(
        "qpatchbench.defenses.pbat:PatchAdversarialTraining",
        "adversarial training with patches through fake quantizers, one network per bit-width",
        RAO,
    ),
    "pbat_float": Entry(
        "qpatchbench.defenses.pbat:FloatPatchAdversarialTraining",
        "adversarial training with patches on the float network",
        RAO,
    ),
    "pbcat": Entry(
        "qpatchbench.defenses.pbcat:PatchCompositeTraining",
        "PBCAT-cls: adversarial training with a patch where the gradient is large and weak noise everywhere else",
        PBCAT,
    ),
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
    "triqdef": Entry(
        "qpatchbench.defenses.triqdef:TriQDef",
        "joint training on patched images that keeps features and gradients of the widths apart",
        TRIQDEF,
    ),
}
