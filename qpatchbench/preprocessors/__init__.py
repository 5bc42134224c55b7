"""Catalogue of inference-time defenses on the input image: adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

_HERE = "qpatchbench.preprocessors"
_SQUEEZING = "Xu et al. 2018, Feature squeezing, NDSS, arXiv 1704.01155"

CATALOGUE: dict[str, Entry] = {
    "none": Entry(f"{_HERE}.none:NoPreprocessor", "the bare network: it sees the images as they are"),
    "bit_depth": Entry(f"{_HERE}.bit_depth:BitDepth", "every colour rounded to fewer levels", _SQUEEZING),
    "diffpure": Entry(
        f"{_HERE}.diffpure:DiffPure",
        "drowned in noise, and brought back by a diffusion model (DDPM)",
        "Nie et al. 2022, Diffusion Models for Adversarial Purification, ICML, arXiv 2205.07460",
    ),
    "jedi": Entry(
        f"{_HERE}.jedi:Jedi",
        "where entropy is high a patch is suspected, its shape completed and filled from around",
        "Tarchoun et al. 2023, Jedi: Entropy-based Localization and Removal of Adversarial Patches, CVPR",
    ),
    "jpeg": Entry(
        f"{_HERE}.jpeg:Jpeg",
        "stored as JPEG and read again; the control of every purifier",
        "Dziugaite et al. 2016, A study of the effect of JPG compression on adversarial images, arXiv 1608.00853",
    ),
    "lgs": Entry(
        f"{_HERE}.lgs:Lgs",
        "local gradient smoothing: the image is darkened where it is rough",
        "Naseer et al. 2019, Local Gradients Smoothing: Defense against Localized Adversarial Attacks, WACV, "
        "arXiv 1807.01216",
    ),
    "patchcleanser": Entry(
        f"{_HERE}.patchcleanser:PatchCleanser",
        "answers what no second mask changes, and certifies images that no patch of a size can turn",
        "Xiang et al. 2022, PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any Image "
        "Classifier, USENIX Security, arXiv 2108.09135",
    ),
    "sac": Entry(
        f"{_HERE}.sac:SegmentAndComplete",
        "a trained U-Net finds patches, squares complete what it found and are painted black",
        "Liu et al. 2022, Segment and Complete: Defending Object Detectors against Adversarial Patch Attacks with "
        "Robust Patch Detection, CVPR, arXiv 2112.04532",
    ),
    "smoothing": Entry(f"{_HERE}.smoothing:Smoothing", "every pixel becomes the median of its window", _SQUEEZING),
}
