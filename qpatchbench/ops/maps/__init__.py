"""Edges, gradients and attention of feature maps."""
