"""One shard: files of rows, vectors and lists, and what nominates the near ones. Knows no collection and no Ray."""
