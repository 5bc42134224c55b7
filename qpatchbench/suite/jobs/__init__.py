"""Jobs: what a suite comes to, each with a key."""
