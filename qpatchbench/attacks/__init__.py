"""Catalogue of attacks: adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

LAVAN = "Karmon, Zoran, Goldberg 2018, LaVAN: Localized and Visible Adversarial Noise, arXiv 1801.02608"
GAP = "Brown, Mane, Roy, Abadi, Gilmer 2017, Adversarial Patch, arXiv 1712.09665"

AUTOPATCH = "after Croce, Hein 2020, AutoAttack, arXiv 2003.01690"
DPR = "Chen et al. 2022, Shape Matters: Deformable Patch Attack, ECCV"
MIN_MAX = "Brown et al. 2017, section 3; Wang et al. 2021, min-max attacks, arXiv 1906.03563"
APGD = "Croce, Hein 2020, Reliable evaluation of adversarial robustness, arXiv 2003.01690"
PATCH_FOOL = "Fu, Zhang, Wu, Wan, Lin 2022, Patch-Fool: Are Vision Transformers Always Robust, arXiv 2203.08392"
PATCHATTACK = "Yang, Kortylewski, Xie, Cao, Yuille 2020, PatchAttack, arXiv 2004.05682"
RAO = "Rao, Stutz, Schiele 2020, Adversarial Training against Location-Optimized Adversarial Patches, arXiv 2005.02313"
FGSM = "Goodfellow, Shlens, Szegedy 2015, Explaining and Harnessing Adversarial Examples, arXiv 1412.6572"
PGD = "Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv 1706.06083"
MIFGSM = "Dong et al. 2018, Boosting Adversarial Attacks with Momentum, arXiv 1710.06081"

SPARSE_RS = "Croce, Andriushchenko, Singh, Flammarion, Hein 2022, Sparse-RS, arXiv 2006.12834"
ASSESSED = "for one such set: Pintor et al. 2023, ImageNet-Patch, Pattern Recognition 134, arXiv 2203.04412"

CATALOGUE: dict[str, Entry] = {
    "autoattack": Entry(
        "qpatchbench.attacks.pixel.autoattack:AutoAttack",
        "whole image within epsilon, worst case of four attacks, by pyautoattack",
        APGD,
    ),
    "autopatch": Entry(
        "qpatchbench.attacks.autopatch:AutoPatch",
        "the standard evaluation: worst case of a fixed set of attacks",
        AUTOPATCH,
    ),
    "autopatch_scores": Entry(
        "qpatchbench.attacks.staged.autopatch_scores:AutoPatchScores",
        "from scores alone: the part of autopatch for networks without a gradient",
        AUTOPATCH,
    ),
    "dpr": Entry("qpatchbench.attacks.dpr:Dpr", "one patch per image, optimised in texture and shape", DPR),
    "ensemble": Entry(
        "qpatchbench.attacks.ensemble:Ensemble", "universal patch on several networks or bit-widths at once", MIN_MAX
    ),
    "file": Entry(
        "qpatchbench.attacks.external.file:FilePatch", "somebody's finished patches, read from a file", ASSESSED
    ),
    "fgsm": Entry("qpatchbench.attacks.pixel.fgsm:Fgsm", "whole image within epsilon, one step", FGSM),
    "gap": Entry("qpatchbench.attacks.gap:Gap", "universal patch, expectation over location, rotation, scale", GAP),
    "grey": Entry("qpatchbench.attacks.controls:Grey", "control: a mid-grey square of the same area"),
    "lavan": Entry("qpatchbench.attacks.lavan:Lavan", "universal noise patch, target logit against label logit", LAVAN),
    "lavan_per_image": Entry(
        "qpatchbench.attacks.lavan:LavanPerImage", "one noise patch per image at a fixed location", LAVAN
    ),
    "mifgsm": Entry(
        "qpatchbench.attacks.pixel.mifgsm:MiFgsm", "whole image within epsilon, steps with momentum", MIFGSM
    ),
    "patch_apgd": Entry(
        "qpatchbench.attacks.patch_apgd:PatchApgd",
        "Auto-PGD on one patch per image, worst of restarts and places",
        APGD,
    ),
    "patch_fool": Entry(
        "qpatchbench.attacks.patch_fool:PatchFool",
        "one patch per image on whole tokens of a vision transformer, which attracts its attention",
        PATCH_FOOL,
    ),
    "patchattack": Entry(
        "qpatchbench.attacks.patchattack:PatchAttack",
        "a policy learns from scores alone where to put which piece of a texture",
        PATCHATTACK,
    ),
    "pgd": Entry("qpatchbench.attacks.pixel.pgd:Pgd", "whole image within epsilon, projected gradient descent", PGD),
    "random": Entry("qpatchbench.attacks.controls:Random", "control: uniform noise of the same area"),
    "sparse_rs": Entry(
        "qpatchbench.attacks.sparse_rs:SparseRs", "random search from scores alone, patch and place", SPARSE_RS
    ),
    "rao": Entry("qpatchbench.attacks.rao:Rao", "one patch per image that moves while it is optimised", RAO),
}
