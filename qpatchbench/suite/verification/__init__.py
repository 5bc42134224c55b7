"""Checks a finished run again: its plan, its predictions, its checks and its patches."""
