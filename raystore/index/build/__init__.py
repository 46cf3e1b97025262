"""A whole index from a collection: planned, written shard by shard, resumed after a kill."""
