"""Intervals, paired comparisons and corrections for several of them."""
