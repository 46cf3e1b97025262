"""Source tables: labels and other events from anywhere, in numbered versions."""
