"""The two papers: what they print, and what runs measured of it."""
