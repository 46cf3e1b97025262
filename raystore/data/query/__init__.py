"""SQL in this process: what a query asks for, the vectors it needs, and DuckDB for the rest."""
