"""Crafting: loops, losses and what attacks share."""
