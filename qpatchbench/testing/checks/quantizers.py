"""Promises of every quantizer, one function each: what is deployed, and what it is deployed from."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from pydantic import ValidationError

from qpatchbench.errors import QPatchBenchError
from qpatchbench.quantizers.base import Checkpoint, Quantizer
from qpatchbench.quantizers.fp import Fp
from qpatchbench.testing.checks import quantizer_answers
from qpatchbench.testing.fixtures.checkpoints import deployed, tried
from qpatchbench.testing.fixtures.networks_and_images import CLASSES, float_network
from qpatchbench.testing.fixtures.operands import multiplications
from qpatchbench.testing.require import DoesNotApplyError, fail, no_global_draws, require, same_state
from qpatchbench.types import FLOAT, FLOAT_BITS, Bits

UNTRAINED = Bits.parse("w7a7")


def it_is_frozen(quantizer: Quantizer, seed: int) -> None:
    """A deployed network is in eval mode, learns nothing, answers finite logits and never changes by answering."""
    on = tried(quantizer, seed)
    for bits in quantizer.bits:
        network, where = deployed(quantizer, on, bits), f"at {bits} bits"
        modes = [name or "the network" for name, part in network.named_modules() if part.training]
        require(not modes, quantizer, f"eval mode {where}; call eval() before returning", f"training: {modes[:3]}")
        learns = [name for name, value in network.named_parameters() if value.requires_grad]
        require(not learns, quantizer, f"no parameter that learns {where}; requires_grad_(False)", f"{learns[:3]}")
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with torch.no_grad():
            logits = network(on.images)
        shape = (len(on.images), CLASSES)
        fine = tuple(logits.shape) == shape and logits.dtype == torch.float32 and bool(logits.isfinite().all())
        require(fine, quantizer, f"finite float32 logits {shape} {where}", f"{tuple(logits.shape)} {logits.dtype}")
        moved = same_state(before, network.state_dict())
        require(not moved, quantizer, f"fixed observers {where}: answering changes nothing", f"another {moved}")


def float_is_the_float_network(quantizer: Quantizer, seed: int) -> None:
    """At 32 bits outputs equal the float network's, bit for bit."""
    try:
        able = type(quantizer).model_validate({**quantizer.model_dump(), "bits": (FLOAT,)})
    except ValidationError as error:
        raise DoesNotApplyError(f"it deploys no 32 bits: {error.errors()[0]['msg']}") from None
    on = tried(able, seed)
    reference, folded = float_network(seed), deployed(Fp(name="fp"), on, FLOAT)
    with torch.no_grad():
        found = deployed(able, on, FLOAT)(on.images)
        same = any(torch.equal(found, each(on.images)) for each in (folded, reference))
        largest = float((found - reference(on.images)).abs().max())
    expected = "the float network at 32 bits, bit for bit; return deploy_float(checkpoint, self.mode, calibration)"
    require(same, quantizer, expected, f"logits that differ by up to {largest:.3g}")


def weights_and_activations_have_few_levels(quantizer: Quantizer, seed: int) -> str:
    """What is multiplied has at most 2^bits values: weights per output channel, activations per tensor or image."""
    on, notes = tried(quantizer, seed), []
    pixels = (on.images * 255).round() / 255
    for bits in _quantized(quantizer):
        found = multiplications(deployed(quantizer, on, bits), pixels)
        if not found:
            raise DoesNotApplyError("its network multiplies in no convolution or matrix product of torch")
        for index, one in enumerate(found):
            where = f"multiplication {index + 1} of {len(found)} at {bits} bits, weights {tuple(one.weights.shape)}"
            if bits.weight != FLOAT_BITS:
                levels, limit = one.weight_levels, 2**bits.weight
                expected = f"at most {limit} distinct weights in an output channel ({where}); quantize every layer"
                require(levels <= limit, quantizer, expected, levels)
            is_image = one.inputs.shape[1:] == pixels.shape[1:]  # which has eight bits of its own
            if bits.activation != FLOAT_BITS and not is_image:
                levels, limit = one.activation_levels, 2**bits.activation
                expected = f"at most {limit} distinct activations ({where}); quantize what every layer reads"
                require(levels <= limit, quantizer, expected, levels)
        most = max(one.weight_levels for one in found)
        notes.append(f"{most} weight levels at {bits} bits")
    return ", ".join(notes)


def the_same_checkpoint_gives_the_same_network(quantizer: Quantizer, seed: int) -> None:
    """Deployed twice, a checkpoint gives the same state and answers; the checkpoint stays as it was."""
    on = tried(quantizer, seed)
    before = {name: value.clone() for name, value in on.checkpoint.state.items()}
    for bits in quantizer.bits:
        first, second = (deployed(quantizer, on, bits) for _ in range(2))
        different = same_state(first.state_dict(), second.state_dict())
        require(not different, quantizer, f"the same network twice at {bits} bits", f"another {different}")
        with torch.no_grad():
            same = torch.equal(first(on.images), second(on.images))
        require(same, quantizer, f"the same logits of two deployments at {bits} bits", "other logits")
        touched = same_state(before, dict(on.checkpoint.state))
        expected = "the checkpoint as it was; load it into checkpoint.build() and change that"
        require(not touched, quantizer, expected, f"another {touched}")


def no_global_generator_moves(quantizer: Quantizer, seed: int) -> None:
    """Deploying and answering leave the global generators of torch, numpy and Python where they are."""
    on = tried(quantizer, seed)
    with torch.random.fork_rng(devices=[]):
        built = on.checkpoint.build()  # initial weights are drawn, whoever deploys
    quiet = Checkpoint(lambda: copy.deepcopy(built), on.checkpoint.state, on.checkpoint.quantizer, on.checkpoint.bits)
    with no_global_draws(quantizer, "quantization needs no draws; a randomised network owns a torch.Generator"):
        for bits in quantizer.bits:
            quantizer.deploy(quiet, bits, on.calibration)(on.images)


def other_bits_are_refused(quantizer: Quantizer, seed: int) -> None:
    """No field accepts a width outside of 2..16 and 32; a width that was not trained is an error that names others."""
    for width in (1, 17, "w4"):
        try:
            type(quantizer).model_validate({**quantizer.model_dump(), "bits": [width]})
        except ValidationError:
            continue
        fail(quantizer, f"an error for bits: [{width}]; keep the field `bits` of Quantizer", "a component")
    if not quantizer.wants_trained:
        return
    on = tried(quantizer, seed)
    try:
        deployed(quantizer, on, UNTRAINED)
    except QPatchBenchError:
        return
    except Exception as error:  # whatever it raises instead is what was found
        fail(quantizer, f"a QPatchBenchError for {UNTRAINED} bits, which were not trained", type(error).__name__)
    fail(quantizer, f"a QPatchBenchError for {UNTRAINED} bits, which were not trained", "a network")


def _quantized(quantizer: Quantizer) -> tuple[Bits, ...]:
    found = tuple(bits for bits in quantizer.bits if not bits.is_float)
    if not found:
        raise DoesNotApplyError("it deploys 32 bits only")
    return found


CHECKS: tuple[Callable[[Quantizer, int], str | None], ...] = (
    it_is_frozen,
    float_is_the_float_network,
    weights_and_activations_have_few_levels,
    the_same_checkpoint_gives_the_same_network,
    no_global_generator_moves,
    other_bits_are_refused,
    *quantizer_answers.CHECKS,
)
