"""The datasets.

Adding one is a new file here and one line below.
"""

from qpatchbench.registry import Entry

CIFAR = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
DIGITS = "Alpaydin, Kaynak 1998, Optical Recognition of Handwritten Digits, UCI"
IMAGENET = "Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge, arXiv 1409.0575"

CATALOGUE: dict[str, Entry] = {
    "cifar10": Entry("qpatchbench.data.cifar:Cifar10", "60,000 photographs of 32x32 pixels, 10 classes", CIFAR),
    "cifar100": Entry("qpatchbench.data.cifar:Cifar100", "60,000 photographs of 32x32 pixels, 100 classes", CIFAR),
    "digits": Entry(
        "qpatchbench.data.digits:Digits", "1,797 handwritten digits that scikit-learn carries, 10 classes", DIGITS
    ),
    "fake": Entry("qpatchbench.data.fake:Fake", "made-up images with learnable classes, for tests"),
    "imagefolder": Entry(
        "qpatchbench.data.imagenet:ImageFolder", "your own images, one folder per class, resized and cropped"
    ),
    "imagenet": Entry(
        "qpatchbench.data.imagenet:ImageNet", "ILSVRC 2012 in its standard folders, 1,000 classes", IMAGENET
    ),
}
