"""Are a shard's files, to the last byte, what was written? Reads all of them; a search checks what it reads, as it reads it."""

from __future__ import annotations

from pathlib import Path

from raystore.index.manifest import ShardRecord
from raystore.index.shards.blocks import BlockFile, BlockTable, check_file

_AT_ONCE = 256  # blocks in memory, of a file that lies elsewhere

TABLE = ".blocks"


def verify_shard(folder: Path, record: ShardRecord) -> None:
    """Nothing, where every file of the shard in `folder` is what its record says.

    Raises:
        ShardCorrupt: the first file that is missing, cut short or changed.
        OSError: the home cannot be reached.
    """
    for name, expected in record.files.items():
        check_file(folder / name, expected)
        if name.endswith(TABLE):
            table = BlockTable.load(folder / name, expected)
            blocks = BlockFile.open(folder / name.removesuffix(TABLE), table, home=record.home)
            for start in range(0, len(table), _AT_ONCE):
                blocks.read(range(start, min(start + _AT_ONCE, len(table))))
