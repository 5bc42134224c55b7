"""Definitions of the numbers, printed beside every table that uses them."""

from __future__ import annotations

DEFINITIONS: tuple[tuple[str, str], ...] = (
    ("asr", "attack success rate, %: of the images classified correctly without a patch and not of the target class, "
     "those classified wrongly with it"),
    ("asr_targeted", "same denominator; classified as the target class; empty for untargeted patches"),
    ("asr_common", "asr on the images that every network of the same dataset, model, defense and seed classifies "
     "correctly, collapsed networks aside"),
    ("asr_control", "asr of a random patch of the same size and placement on the same images; asr_grey: of a grey one"),
    ("asr_net", "asr - asr_control, in points: what optimisation adds over occlusion"),
    ("asr_worst", "per image, success of any source's patch of this attack and size on this target"),
    ("clean_accuracy", "% of all evaluation images classified correctly without a patch"),
    ("robust_accuracy", "% of all evaluation images classified correctly without and with the patch, mean over target "
     "classes"),
    ("certified_accuracy", "% of all evaluation images that provably keep their label under any upright square patch "
     "of this size, wherever it lies; empty where nothing is proved"),
    ("asr_targeted_best", "asr_targeted of the target class that is hit most often, asr_targeted_least: least often, "
     "over all seeds; empty where there is one class or none"),
    ("collapse", "of the images that untargeted patches fool, % that get the most frequent wrong answer of their "
     "patch: 100 is a patch that names one class"),
    ("gradient_cosine", "mean cosine of the input gradients of each image at fewer bits and at the most, times 100; "
     "patched images and images perturbed by PGD are made once and shown to all bit-widths"),
    ("transfer_ratio", "asr on the target / asr of the same patch on its source, both on images common to the "
     "comparisons of the two"),
    ("intervals", "95 %; Wilson over images for one seed and one target class, otherwise a bootstrap that resamples "
     "seeds, target classes and images; a bootstrap of a rate that is 0 or 100 everywhere has no width, and seeds or "
     "target classes that are few make intervals too narrow"),
    ("parameters", "weights and biases of the target; of a file, weights of the operators that multiply"),
    ("multiplications", "multiply-accumulates by weights for one image; MMAC: millions"),
    ("model_bytes", "size of the file; where there is none, of the parameters, weights of quantized layers at their "
     "bits; kB: thousands"),
    ("latency_ms", "median milliseconds of one image, alone, in the runtime that answers, on the machine of the run"),
    ("agreement", "of the clean and patched predictions, % that the runtime leaves as they are simulated; asr_runtime: "
     "asr of the same patches there"),
    ("rank", "by asr, lowest first, among rows of the same dataset, attack, size and bit-widths; shared where the 95 % "
     "interval of the paired difference to the first of the tie contains 0; none with a failed check or seed"),
    ("counts", "n_images is per seed; every other count is a sum over seeds and target classes"),
)  # fmt: skip


def definitions_text(names: tuple[str, ...]) -> list[str]:
    """`name: definition` for the names given, in the order above."""
    return [f"{name}: {text}" for name, text in DEFINITIONS if name in names]
