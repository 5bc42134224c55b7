"""Runs the jobs of a plan on several workers at once."""
