"""Source images -> 256x256 shards, exact statistics, index and manifest."""
