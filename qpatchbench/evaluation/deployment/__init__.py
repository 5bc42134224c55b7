"""Agreement of a runtime with the simulation of its quantization: predictions, and codes layer by layer."""
