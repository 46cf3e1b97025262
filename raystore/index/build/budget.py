"""Into how many shards an index is cut, so that each stays within the memory it may hold. Pure arithmetic over kinds.py."""

from __future__ import annotations

import math

from raystore.index.kinds import KINDS, TABLE, code_bytes

MOST_SHARDS = 9_999  # four digits in the names of their files
_LINKED = 300  # bytes a centroid where many of them are searched through a graph
_SLACK = 1.05  # over the codes and centroids: what FAISS keeps beside them


def shard_bytes(kind: str, dim: int, rows: int) -> int:
    """The private memory that a shard of so many rows is expected to take: codes, FAISS's ids, centroids, code books.

    From 2 to 10% above what shards of 20,000 and 40,000 arXiv titles took, whatever the kind.
    """
    lists = min((8 if kind == "disk" else 4) * math.sqrt(rows), rows / 39) if TABLE[kind].in_lists else 0.0
    centroids = lists * (4 * dim + (_LINKED if kind == "disk" else 0))
    books = 4 * dim * {"ivf_pq": 256, "ivf_pqfs": 16}.get(kind, 0)
    return math.ceil(_SLACK * (rows * code_bytes(kind, dim) + centroids + books))


def fewest_shards(kind: str, dim: int, rows: int, memory: int) -> int | None:
    """The fewest even parts of the rows that each fit, None where no number of them does."""
    most = min(max(1, rows), MOST_SHARDS)
    if shard_bytes(kind, dim, math.ceil(rows / most)) > memory:
        return None
    low, high = 1, most
    while low < high:  # what a shard takes falls with their number
        middle = (low + high) // 2
        if shard_bytes(kind, dim, math.ceil(rows / middle)) <= memory:
            high = middle
        else:
            low = middle + 1
    return low


def over_budget(kind: str, dim: int, rows: int, shards: int | None, memory: int) -> str | None:
    """Why this kind in so many shards (None: as many as it takes) cannot keep to the memory, and the nearest that can; None
    where it can."""
    fewest = fewest_shards(kind, dim, rows, memory)
    if fewest is not None and (shards is None or shards >= fewest):
        return None
    parts = shards or min(max(1, rows), MOST_SHARDS)
    each = math.ceil(rows / parts)
    needed = shard_bytes(kind, dim, each)
    said = f"memory is {memory:,} bytes a shard, and one of {each:,} rows of kind '{kind}' takes {needed:,}"
    nearest = [f"shards={fewest} of kind '{kind}'"] if fewest is not None else []
    # Of the kinds that fit as many shards, the one that keeps most of each vector.
    fitting = [k for k in KINDS if k != kind and shard_bytes(k, dim, each) <= memory]
    if fitting:
        best = max(fitting, key=lambda k: code_bytes(k, dim))
        nearest.append(f"kind='{best}' with shards={parts}")
    return f"{said}; the nearest that can: {' or '.join(nearest)}"
