"""Heads: shallow models on one encoder's vectors, how they are fitted, measured, kept and read back."""
