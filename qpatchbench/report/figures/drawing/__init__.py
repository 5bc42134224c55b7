"""Parts of figures: style, points with intervals, grids of pictures, pages of maps."""
