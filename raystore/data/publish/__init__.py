"""A Parquet copy of a collection, kept current for a warehouse."""
