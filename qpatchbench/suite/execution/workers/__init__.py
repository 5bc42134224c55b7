"""Runs the jobs of a plan in several processes at once: what runs next, what is told, who works."""
