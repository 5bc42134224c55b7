"""Citations: the papers behind the components of a run."""
