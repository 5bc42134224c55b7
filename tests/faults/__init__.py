"""Faults that a run meets, one after the other."""
