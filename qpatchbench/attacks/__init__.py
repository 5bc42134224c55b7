"""Attacks. Adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

LAVAN = "Karmon, Zoran, Goldberg 2018, LaVAN: Localized and Visible Adversarial Noise, arXiv 1801.02608"
GAP = "Brown, Mane, Roy, Abadi, Gilmer 2017, Adversarial Patch, arXiv 1712.09665"

CATALOGUE: dict[str, Entry] = {
    "gap": Entry("qpatchbench.attacks.gap:Gap", "universal patch, expectation over location, rotation, scale", GAP),
    "grey": Entry("qpatchbench.attacks.controls:Grey", "control: a mid-grey square of the same area"),
    "lavan": Entry("qpatchbench.attacks.lavan:Lavan", "universal noise patch, target logit against label logit", LAVAN),
    "lavan_per_image": Entry(
        "qpatchbench.attacks.lavan:LavanPerImage", "one noise patch per image at a fixed location", LAVAN
    ),
    "random": Entry("qpatchbench.attacks.controls:Random", "control: uniform noise of the same area"),
}
