"""Leaderboard entries: written, and recounted from their bytes."""
