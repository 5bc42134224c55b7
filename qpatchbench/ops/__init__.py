"""Pure tensor functions: no files, no classes with state, no randomness but a passed generator."""
