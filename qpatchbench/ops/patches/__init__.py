"""Patches: textures, places, pasting."""
