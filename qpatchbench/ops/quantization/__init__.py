"""Fake quantization, its gradients, ranges and rounding."""
