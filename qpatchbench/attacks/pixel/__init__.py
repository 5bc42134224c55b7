"""Pixel attacks: the whole image within epsilon, for contrast with patches."""
