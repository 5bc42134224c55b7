"""A suite file: read, checked and explained with line and column."""
