"""Attention maps of a vision transformer, taken while it answers, and the gradient surgery of attacks on it.

Attention modules are found by what they are made of, a `qkv` projection, a number of heads and a `proj`, so that any
network around timm's ViT or DeiT will do, quantized or not. Fused kernels never form the attention matrix; it is
computed again from the queries and keys that `qkv` returned, and compared once with what the modules passed on:
windows, relative position biases or rotary embeddings, which this formula leaves out, are an error and never a wrong
matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from qpatchbench.errors import AttackError
from qpatchbench.types import Network

TOLERANCE = 1e-4  # of what a module passed on, relative to its largest value


class Attending:
    """A network that remembers the attention of its last answer; made by `attending`.

    Attributes:
        prefix: how many tokens precede those of the image (class, distillation, registers).
    """

    def __init__(self, network: Network, prefix: int) -> None:
        self._network, self.prefix = network, prefix
        # Modules and the output of their qkv (B, N, 3 * heads * d), in the order in which they ran.
        self._projected: list[tuple[torch.nn.Module, torch.Tensor]] = []
        self._mixed: list[torch.Tensor] = []  # what they passed on to their proj, (B, N, heads * d)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> logits (B, K), the network's own."""
        self._projected.clear()
        self._mixed.clear()
        return self._network(images)

    @property
    def depth(self) -> int:
        """Number of attention layers."""
        return len(self._projected)

    @property
    def grid(self) -> int:
        """Rows, and columns, of image tokens."""
        return math.isqrt(self._projected[0][1].shape[1] - self.prefix)

    def log_attention(self, layer: int) -> torch.Tensor:
        """Logarithm of softmax(q k^T / sqrt(d)) of the last answer, (B, heads, N queries, N keys); layers from 0."""
        queries, keys, _ = _queries_keys_values(*self._projected[layer])
        scores: torch.Tensor = queries @ keys.transpose(-2, -1)
        return scores.log_softmax(dim=-1)

    def attention_received(self, layer: int) -> torch.Tensor:
        """What each image token gets from the queries of all heads, prefix tokens' among them; (B, grid, grid)."""
        received = self.log_attention(layer).exp().sum(dim=(1, 2))
        return received[:, self.prefix :].reshape(-1, self.grid, self.grid)

    def log_attention_on(self, tokens: torch.Tensor, layer: int) -> torch.Tensor:
        """Mean over queries of the log of the attention, averaged over heads, on some tokens together.

        Args:
            tokens: (B, M) int64, indices of image tokens, row by row.
            layer: counted from 0.

        Returns:
            (B,), at most 0.
        """
        attention = self.log_attention(layer)
        keys = (tokens + self.prefix).view(len(tokens), 1, 1, -1).expand(-1, *attention.shape[1:3], -1)
        # In logarithms throughout: attention that underflows to 0 would have no gradient to raise it.
        together = attention.gather(3, keys).logsumexp(dim=(1, 3)) - math.log(attention.shape[1])
        return together.mean(dim=1)

    def heard(self, module: torch.nn.Module, qkv: torch.nn.Module, arguments: object, output: torch.Tensor) -> None:
        """Forward hook on the `qkv` of an attention module."""
        self._projected.append((module, output))

    def passed_on(self, proj: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        """Forward pre-hook on its `proj`."""
        self._mixed.append(arguments[0])

    def flaw(self, count: int) -> str:
        """Why the last answer, to `count` images, shows no attention of all tokens to all; empty if it does."""
        if not self._projected or len(self._projected) != len(self._mixed):
            return "no self-attention was seen at work"
        shapes = {tuple(output.shape[:-1]) for _, output in self._projected}
        tokens = self._projected[0][1].shape[1]
        if shapes != {(count, tokens)}:
            return f"layers see {sorted(shapes)} tokens, expected all of each image in every layer, ({count}, N)"
        if tokens <= self.prefix or math.isqrt(tokens - self.prefix) ** 2 != tokens - self.prefix:
            return f"{tokens} tokens, {self.prefix} of them before those of the image, form no square grid"
        for layer, ((module, output), mixed) in enumerate(zip(self._projected, self._mixed, strict=True)):
            if not _is_plain(module, output, mixed):
                return f"layer {layer} does not answer softmax(q k^T / sqrt(d)) v"
        return ""


@contextmanager
def attending(network: Network, example: torch.Tensor) -> Iterator[Attending]:
    """Record a vision transformer's attention until the block ends; then the hooks are gone, whatever happened.

    Args:
        network: a frozen module.
        example: images (B, 3, H, W) on which the recorded attention is held against the network's own; the result
            starts with the attention of these.

    Raises:
        AttackError: the network has no attention of all tokens to all tokens.
    """
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    prefixes = (getattr(module, "num_prefix_tokens", None) for module in modules)
    seen = Attending(network, next((prefix for prefix in prefixes if isinstance(prefix, int)), 0))
    hooks = []
    try:
        for module in modules:
            parts = dict(module.named_children())
            if {"qkv", "proj"} <= parts.keys() and hasattr(module, "num_heads"):
                hooks.append(parts["qkv"].register_forward_hook(partial(seen.heard, module)))
                hooks.append(parts["proj"].register_forward_pre_hook(seen.passed_on))
        if hooks:
            with torch.no_grad():
                seen(example)
        flaw = seen.flaw(len(example))
        if flaw:
            kind = type(getattr(network, "backbone", network)).__name__
            raise AttackError(
                "expected a vision transformer whose tokens attend to all others, such as deit_b or "
                f"timm/vit_tiny_patch16_224, found {kind}: {flaw}. patch_apgd works on any network"
            )
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def without_conflict(gradients: torch.Tensor, main: torch.Tensor) -> torch.Tensor:
    """Gradients (B, ...) less what points against the main ones (B, ...): PCGrad for one side only.

    Yu et al. 2020 (arXiv 2001.06782), Algorithm 1: where g . m < 0, g becomes g - (g . m / |m|^2) m.
    """
    own, other = gradients.flatten(1), main.flatten(1)
    against = (own * other).sum(dim=1, keepdim=True).clamp(max=0)
    length = other.square().sum(dim=1, keepdim=True).clamp(min=torch.finfo(other.dtype).tiny)
    return (own - against / length * other).view_as(gradients)


def token_side(image_side: int, grid: int, patch_side: int) -> int:
    """Side of a token on the image, pixels.

    Raises:
        AttackError: tokens, or the patch in tokens, are no whole numbers.
    """
    if image_side % grid:
        raise AttackError(
            f"expected an image side that is a multiple of the {grid} of the network's {grid} x {grid} tokens, "
            f"found {image_side} pixels"
        )
    side = image_side // grid
    if patch_side % side:
        below, above = patch_side // side * side, (patch_side // side + 1) * side
        nearest = " or ".join(str(size) for size in (below, above) if 0 < size <= image_side)
        raise AttackError(
            f"expected a patch of whole tokens, {side} x {side} pixels each on images of {image_side}, "
            f"found a patch of {patch_side} x {patch_side}; use size {nearest}"
        )
    return side


def _queries_keys_values(module: torch.nn.Module, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Scaled queries, keys and values, (B, heads, N, d) each, from the output of `qkv`."""
    heads = int(module.num_heads)  # type: ignore[arg-type]  # torch types attributes as tensors or modules
    split = output.reshape(*output.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    parts = dict(module.named_children())
    queries = parts["q_norm"](split[0]) if "q_norm" in parts else split[0]
    keys = parts["k_norm"](split[1]) if "k_norm" in parts else split[1]
    return queries * queries.shape[-1] ** -0.5, keys, split[2]


def _is_plain(module: torch.nn.Module, output: torch.Tensor, mixed: torch.Tensor) -> bool:
    """Whether a module passed on what its queries, keys and values alone give."""
    if output.shape[2] % (3 * int(module.num_heads)):  # type: ignore[arg-type]  # as above
        return False
    queries, keys, values = _queries_keys_values(module, output)
    expected = ((queries @ keys.transpose(-2, -1)).softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
    if mixed.shape != expected.shape:
        return False
    return not bool((mixed - expected).abs().max() > TOLERANCE * mixed.abs().max())  # NaN is another error's matter
