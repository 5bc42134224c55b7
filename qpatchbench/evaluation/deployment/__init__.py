"""Whether a runtime answers as the simulation of its quantization does: predictions, and codes layer by layer."""
