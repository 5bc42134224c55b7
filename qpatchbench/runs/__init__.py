"""The run folder: its files, their layout, their integrity."""
