"""From a suite to its jobs, in an order in which each comes after what it needs."""
