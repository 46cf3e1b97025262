"""Rows, source tables, SQL and snapshots: what the store keeps, and how it is written once."""
