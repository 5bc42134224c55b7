"""Attacks whose patches were made elsewhere."""
