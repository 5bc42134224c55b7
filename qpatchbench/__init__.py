"""qpatchbench: how adversarial patches transfer across the bit-widths of quantized vision models."""

__version__ = "0.1.0"
