"""The papers' claims, tested on what runs measured."""
