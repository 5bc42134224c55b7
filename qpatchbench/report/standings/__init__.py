"""Standings: one row per defended network at one bit-width, one column per threat, over runs and entries."""
