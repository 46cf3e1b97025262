"""Frozen training sets: how rows, labels and sides are made, kept, compared, exported."""
