"""What figures share: style, points with intervals, grids of pictures, pages of maps."""
