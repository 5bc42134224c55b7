"""The store of finished work, and where it came from."""
