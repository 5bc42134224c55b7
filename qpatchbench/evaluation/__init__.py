"""Measurements: cells, validity checks, statistics."""
