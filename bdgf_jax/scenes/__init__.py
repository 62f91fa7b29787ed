"""Files to a `Scene`: arrays on one grid, labels, splits, geo-reference; and patches gathered from it."""
