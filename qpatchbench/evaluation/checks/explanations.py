"""The words of every validity check, for reports: raised if, what it means, what to do, where it says nothing."""

from __future__ import annotations

from typing import NamedTuple


class Explanation(NamedTuple):
    """One check in words."""

    title: str
    raised_if: str
    means: str
    do: str
    not_run: str = "evaluation.checks is off"


EXPLANATIONS: dict[str, Explanation] = {
    "V1": Explanation(
        "The patch is what it claims to be",
        "a pixel outside the patch changes, the mask exceeds its budget, a value leaves [0, 1], a stored "
        "value is not the nearest of 8 bits, or rounding to 8 bits changes 0.5 % or more of the predictions "
        "of the network that the patch was crafted on, whatever the row's target is",
        "the measured perturbation is not the one named in the row, or exists only in floating point",
        "clamp and round inside the attack; compare the mask with the stated size",
    ),
    "V2": Explanation(
        "The optimised patch beats a random one",
        "on the same images and placements, the optimised patch does not fool significantly more than random noise; "
        "a failure on the network it was crafted on, a warning elsewhere and for a patch that was moved",
        "the patch does nothing beyond occlusion: on its own network the attack is broken or gradients are masked, on "
        "another one it may simply not transfer",
        "look at the white-box row of the same target, raise the steps, and try a score-based attack",
        "no random control was evaluated: changes of the whole image have none",
    ),
    "V3": Explanation(
        "Gradients at the patch are usable",
        "more than 5 % of the images give a zero gradient at the patch, or any gradient is not finite",
        "the attack was blind on these images; a low ASR says nothing about robustness",
        "check the straight-through estimator and saturated quantizers; attack with other surrogate gradients",
        "the attack follows no gradient",
    ),
    "V4": Explanation(
        "No transferred patch beats the white-box one",
        "a patch of the same attack and size, crafted elsewhere, fools significantly more images than the target's own",
        "the white-box attack is not the worst case: its gradient is masked, or its crafting did not converge",
        "report the worst of both; craft on a surrogate or without gradients",
        "the row is no white box, or no patch of the same attack and size was transferred to its network",
    ),
    "V5": Explanation(
        "The attack has converged",
        "the mean loss of the last tenth of the steps is below that of the tenth before, beyond noise (99 %) and by "
        "more than 2 % of its whole fall; a warning",
        "more steps would give a stronger patch, so that the ASR is a lower bound",
        "raise the steps; the best iterate is kept, a universal one by crafting images held out for that",
        "the attack records fewer than 50 steps",
    ),
    "V6": Explanation(
        "Clean accuracy is above chance",
        "the interval of clean accuracy reaches chance",
        "the network does not classify, so that its ASR means nothing",
        "train longer, calibrate on more images, or leave this bit-width out",
    ),
    "V7": Explanation(
        "The network is in a state for evaluation",
        "the network is in training mode, returns probabilities, or its state differs after the attack",
        "batch statistics or observers move while patches are crafted, or softmax starves the gradients",
        "freeze observers, call eval(), return logits",
    ),
    "V8": Explanation(
        "The same input gives the same output",
        "two passes over the same images differ and the attack does not average over the randomness",
        "the attack follows the gradient of one random network and is evaluated on another",
        "attack with expectation over transformation, at least 20 draws, or give the network an attribute `expected`, "
        "its exact expectation",
    ),
    "V9": Explanation(
        "Images are kept apart",
        "an image is in two of the parts train, calibration, craft and evaluation, compared by content",
        "accuracy or ASR is measured on images that were learned",
        "split the dataset again",
    ),
    "V10": Explanation(
        "A crash is an error",
        "a crashed attack was counted as a failed one",
        "robustness is overstated",
        "read the traceback, mend the attack, run again",
    ),
    "V11": Explanation(
        "A larger budget never hurts the attack",
        "on 128 images of the network it was crafted on, a patch of twice the side fools significantly fewer, or one "
        "crafted with a quarter of the steps or a single restart fools significantly more, by 5 points at least; fewer "
        "steps give the very same patch although images are left to fool; a patch of the whole image fools less than "
        "95 %; a warning where the attack refuses such a budget",
        "the optimisation does not use its budget, or its gradient is zero: a low ASR is no robustness",
        "tune or mend the attack before any claim of robustness; look at V3 and V12",
        "needs evaluation.checks: full; white-box rows of attacks that follow gradients",
    ),
    "V12": Explanation(
        "No other gradient serves the attack better",
        "on 128 images of the network it was crafted on, the same attack fools significantly more, by 5 points at "
        "least, when it follows another gradient: the straight-through one of the quantizers (network), that of the "
        "32-bit path (float), one through the scales that dynamic quantization takes from each image (scales), or one "
        "that passes clipped activations too (identity); a warning",
        "the gradient of the row is masked, at least in part: its ASR is no worst case",
        "use the strongest, which the message names, for example with backward: float",
        "needs evaluation.checks: full; white-box rows of attacks that follow gradients, on quantized networks",
    ),
    "V13": Explanation(
        "A black-box patch does not beat the white-box one",
        "on the network it was made on, per-image attacks without gradients fool significantly more images than all "
        "per-image attacks with gradients together, or, inside one compound attack, break more than 5 % of the images "
        "after gradients did what they could",
        "gradients are masked: a low white-box ASR is no robustness",
        "report the black-box number; follow another gradient (backward: float), or another loss",
        "no attack without gradients was run on this network",
    ),
    "V14": Explanation(
        "A second implementation agrees",
        "on 128 images of the network it was crafted on, a second implementation with the same fields, written apart "
        "from the first, reaches the goal significantly more often, by 10 points at least; a warning where it does so "
        "as much less often",
        "one of the two implementations is wrong or tuned differently",
        "compare them step by step; the second one is the class that the attack names as its `second`",
        "needs evaluation.checks: full; white-box rows of attacks that have a second implementation: gap and lavan",
    ),
    "V15": Explanation(
        "The network has the bits it claims",
        "a layer has more distinct weights per channel, or more distinct inputs, than its bit-width allows, or more "
        "than half of the multiply-accumulates between the first and the last layer are wider than the row says, or "
        "operators outside of all layers (a convolution called as a function, a product with a parameter) multiply by "
        "weights in float; a warning where single layers were left in float",
        "the row compares something else than its label says",
        "look at the layers named; quantize them or change the label. First and last layers may be wider, and count in "
        "the mean width, weighted by multiply-accumulates, that the manifest states",
        "a float network, or one that was deployed before widths were checked",
    ),
    "V16": Explanation(
        "Deployment agrees with the simulation",
        "a runtime that computes with integers changes significantly more than 0.5 % of the predictions, clean and "
        "patched, and more than the simulation changes itself where its images are off by a last digit; or its ASR "
        "leaves the 95 % interval of the simulated one. A warning: 0.5 % on too few images, or no more than that",
        "simulated quantization does not describe the deployed network",
        "look at the first layer that the message names, whose codes differ by more than rounding: compare its scale, "
        "zero point and rounding with the runtime's (`qpatchbench export` writes the model)",
        "simulated only: no integer runtime was run (deployment: onnxruntime), or no model can be written of a network "
        "with run-time scales, several members or more than 8 bits",
    ),
    "V17": Explanation(
        "A certificate holds",
        "an image that is certified against patches of this size is classified wrongly, without the patch or with it",
        "the certificate is wrong, or is for another network than the one that answers: certified_accuracy is no bound",
        "look for a patch that no mask covers, and for a network that was changed after it was certified",
        "nothing was certified against this patch: the preprocessor gives no certificate, the patch is larger than it "
        "says, or it is turned",
    ),
}
