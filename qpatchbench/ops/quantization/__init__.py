"""Fake quantization and its gradients."""
