"""Catalogue of quantizers, by which a checkpoint is deployed: adding one is a new file here and one line below."""

from qpatchbench.registry import Entry

DWQ = "Fu et al. 2021, Double-Win Quant: Aggressively winning robustness of quantized deep neural networks, ICML"
KRISHNAMOORTHI = "Krishnamoorthi 2018, Quantizing deep convolutional networks, arXiv 1806.08342"
LSQ = "Esser et al. 2020, Learned Step Size Quantization, arXiv 1902.08153"
WU = "Wu et al. 2020, Integer Quantization for Deep Learning Inference, arXiv 2004.09602"

CATALOGUE: dict[str, Entry] = {
    "dynamic": Entry(
        "qpatchbench.quantizers.dynamic:Dynamic", "activation scale per image at run time", KRISHNAMOORTHI
    ),
    "fp": Entry("qpatchbench.quantizers.fp:Fp", "the float network, 32 bits"),
    "ptq": Entry("qpatchbench.quantizers.ptq:Ptq", "post-training, activation range calibrated on held-out images", WU),
    "qat": Entry("qpatchbench.quantizers.qat:Qat", "fake quantizers trained with the weights", LSQ),
    "random_precision": Entry(
        "qpatchbench.quantizers.random_precision:RandomPrecision", "a random trained bit-width for every image", DWQ
    ),
}
