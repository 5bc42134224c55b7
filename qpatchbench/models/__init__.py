"""The architectures.

Adding one is a new file here and one line below; any timm name works as `timm/<name>`.
"""

from qpatchbench.registry import Entry

CIFAR = "qpatchbench.models.cifar:CifarModel"
DEPLOYED = "qpatchbench.models.deployed.deployed_model:DeployedModel"
TIMM = "qpatchbench.models.timm_models:TimmModel"
MODULE = "qpatchbench.models.module:ModuleModel"

HE = "He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition, arXiv 1512.03385"
VGG = "Simonyan, Zisserman 2015, Very Deep Convolutional Networks, arXiv 1409.1556"
ALEXNET = "Krizhevsky, Sutskever, Hinton 2012, ImageNet Classification with Deep CNNs"
INCEPTION = "Szegedy et al. 2016, Rethinking the Inception Architecture, arXiv 1512.00567"
DENSENET = "Huang, Liu, van der Maaten, Weinberger 2017, arXiv 1608.06993"
MOBILENET = "Sandler, Howard, Zhu, Zhmoginov, Chen 2018, MobileNetV2, arXiv 1801.04381"
SWIN = "Liu et al. 2021, Swin Transformer, arXiv 2103.14030"
DEIT = "Touvron et al. 2021, Training data-efficient image transformers, arXiv 2012.12877"
EFFICIENTNET = "Tan, Le 2019, EfficientNet, arXiv 1905.11946; Lite: no squeeze-excite, ReLU6"
OWN = "the torch.nn.Module of PyTorch, Paszke et al. 2019, arXiv 1912.01703"

CATALOGUE: dict[str, Entry] = {
    "alexnet": Entry(CIFAR, "AlexNet for small images, BatchNorm instead of LRN", ALEXNET),
    "deit_b": Entry(TIMM, "DeiT-B, patch 16, 224 pixels", DEIT),
    "deployed": Entry(DEPLOYED, "a file that a runtime answers from, float or int8: logits and no gradient"),
    "densenet121": Entry(TIMM, "DenseNet-121", DENSENET),
    "inception_v3": Entry(TIMM, "Inception-v3 without the auxiliary classifier", INCEPTION),
    "mobilenetv2_100": Entry(TIMM, "MobileNetV2, width 1.0", MOBILENET),
    "module": Entry(MODULE, "a network of your own: the function that builds it, in a Python file", OWN),
    "resnet18": Entry(TIMM, "ResNet-18", HE),
    "resnet20": Entry(CIFAR, "ResNet-20 for small images, parameter-free shortcuts", HE),
    "resnet32": Entry(CIFAR, "ResNet-32 for small images, parameter-free shortcuts", HE),
    "resnet34": Entry(TIMM, "ResNet-34", HE),
    "resnet44": Entry(CIFAR, "ResNet-44 for small images, parameter-free shortcuts", HE),
    "resnet50": Entry(TIMM, "ResNet-50", HE),
    "resnet56": Entry(CIFAR, "ResNet-56 for small images, parameter-free shortcuts", HE),
    "swin_s": Entry(TIMM, "Swin-S, patch 4, window 7, 224 pixels", SWIN),
    "tf_efficientnet_lite0": Entry(TIMM, "EfficientNet-Lite0", EFFICIENTNET),
    "tf_efficientnet_lite1": Entry(TIMM, "EfficientNet-Lite1, 240 pixels", EFFICIENTNET),
    "tf_efficientnet_lite2": Entry(TIMM, "EfficientNet-Lite2, 260 pixels", EFFICIENTNET),
    "timm/<name>": Entry(TIMM, "any other timm architecture, for example timm/convnext_tiny"),
    "vgg16": Entry(CIFAR, "VGG-16 with BatchNorm for small images, one linear classifier", VGG),
    "vgg19": Entry(CIFAR, "VGG-19 with BatchNorm for small images, one linear classifier", VGG),
}
