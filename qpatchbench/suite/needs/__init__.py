"""Bytes that the jobs of a plan take of a machine, on disk and in memory."""
