"""Runs a plan, and exports what it gave."""
