"""The runtime that answers beside a simulation, where a suite has `deployment`."""
