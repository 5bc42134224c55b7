"""Files for others: the patches of a run, each with a passport."""
