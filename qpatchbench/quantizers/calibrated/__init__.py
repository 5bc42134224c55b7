"""Post-training calibration: grids, equalisation, rounding and biases from a few images."""
