"""Staged attacks: several in turn, each on the images that the ones before left unbroken."""
