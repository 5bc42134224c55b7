"""What is measured: cells, validity checks, statistics."""
