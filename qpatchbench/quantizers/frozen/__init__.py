"""Deployed networks: weights on their grid, fixed activation quantizers, BatchNorm folded away."""
