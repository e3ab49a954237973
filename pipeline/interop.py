"""What other programs want beside the shards: timm's `_info.json`, DALI's `.idx` files.

Both follow from the manifest and the rows of the index; of ours only `verify` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.manifest import Split, to_json
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


def dali_index(samples: Iterable[tuple[str, int, int, int]]) -> bytes:
    """The index of one shard, by (key, label, offset, size) of its samples in their order.

    A line a sample, four words a component: extension, offset of its bytes in the tar, size, name.
    """
    lines = []
    for key, label, offset, size in samples:
        behind = offset + size + -size % BLOCK + BLOCK  # where the .cls begins
        lines.append(f"jpg {offset} {size} {key}.jpg cls {behind} {len(str(label))} {key}.cls")
    return ("\n".join([f"{DALI_VERSION} {len(lines)}", *lines]) + "\n").encode()
