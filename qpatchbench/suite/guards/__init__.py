"""Guards around the work of a job: what it may not change, and what it may return."""
