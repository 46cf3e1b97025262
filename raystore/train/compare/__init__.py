"""Two heads on the same rows: paired tests, classes, rows that changed sides."""
