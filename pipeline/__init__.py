"""From labelled images to a dataset: 256x256 JPEGs in tar shards, exact statistics, an index.

    source ──> plan ──> shard (a task each) ──> commits ──> index, statistics, manifest

`listing` says what a source holds, `plan` fixes order and shards, `shard` makes one, `run` tells
the whole story. Nothing here trains, and nothing here believes a header before checking it.
"""
