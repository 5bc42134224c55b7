"""Where the grid of a quantizer lies, and which of its points a weight takes."""
