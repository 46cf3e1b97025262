"""What is like this? Search over one vector column of a collection: kinds of index, shards, replicas, what is asked, tuning, pairs."""
