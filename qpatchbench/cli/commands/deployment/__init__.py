"""Commands that lead from a run to a deployed network."""
