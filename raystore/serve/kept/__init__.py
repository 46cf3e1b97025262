"""What is kept of predictions: a row an item and head, never content."""
