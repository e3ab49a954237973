"""What other programs want beside the shards: timm's `_info.json`, DALI's `.idx` files.

Both follow from the manifest and the commits; nothing of ours reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.manifest import Split, to_json
from pipeline.commits import OK, Row
from pipeline.tar import BLOCK

TIMM_INFO = "_info.json"
DALI_VERSION = "v1.2"  # of the index that DALI's own wds2idx writes


def timm_info(splits: Mapping[str, Split]) -> bytes:
    """`_info.json`: for each split its samples, its shards' names and how many each holds."""
    return to_json(
        {
            "splits": {
                name: {
                    "name": name,
                    "num_samples": split.samples,
                    "filenames": [shard.name for shard in split.shards],
                    "shard_lengths": [shard.samples for shard in split.shards],
                }
                for name, split in splits.items()
            }
        }
    )


def dali_name(shard: str) -> str:
    """`train/000000.tar` -> `train/000000.idx`."""
    return f"{shard.removesuffix('.tar')}.idx"


def dali_index(rows: Iterable[Row]) -> bytes:
    """The index of one shard, by the rows of its commit in their order.

    A line a sample, four words a component: extension, offset of its bytes in the tar, size, name.
    """
    kept = [row for row in rows if row.status == OK]
    lines = [f"{DALI_VERSION} {len(kept)}"]
    for row in kept:
        assert row.offset is not None and row.size is not None
        label = row.offset + row.size + -row.size % BLOCK + BLOCK  # where the .cls begins
        lines.append(
            f"jpg {row.offset} {row.size} {row.key}.jpg "
            f"cls {label} {len(str(row.label))} {row.key}.cls"
        )
    return ("\n".join(lines) + "\n").encode()
