"""Validity checks of a number."""
