"""Tests of the run folder as it is read."""
