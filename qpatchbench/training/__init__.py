"""The loop that every defense shares."""
