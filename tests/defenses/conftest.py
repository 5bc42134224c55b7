"""Defenses are trained by the fixtures of the training loop's tests."""

from tests.training.conftest import quantizer, run, settings, splits

__all__ = ["quantizer", "run", "settings", "splits"]
