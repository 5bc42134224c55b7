"""Two runs, row by row."""
