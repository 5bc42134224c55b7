"""A look inside a network: what its layers see, hand on and compute with."""
