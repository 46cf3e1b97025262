"""What is like this? Exact and IVF search over one vector column, in shards, inline or as Ray actors."""
