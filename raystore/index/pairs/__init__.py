"""Who is near whom in a whole collection, out of core: the graph of the k nearest, and duplicates."""
