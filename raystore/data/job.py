"""What an embedding job is to do with the rows it reads (the plan), what became of them (the counts), and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from raystore.data.readers import Block
from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Modality

# A commit takes 6 ms, so it may come often: at most this much work is done again after a kill.
BATCH_ROWS = 1_024
BATCH_CHARS = 262_144
BATCH_BYTES = 64 * 2**20  # of images in memory at once
_IMAGE_ROWS = 256  # some seconds of work, where a text takes a few milliseconds


class JobEncoder(Protocol):
    """What a job needs of an encoder."""

    @property
    def dim(self) -> int: ...
    @property
    def max_chars(self) -> int: ...
    @property
    def backend(self) -> str: ...
    @property
    def device(self) -> str: ...
    def encode_each(self, items: Sequence[Item]) -> Encoded: ...


@dataclass(frozen=True)
class EmbedPlan:
    """What a job does with each row. Columns are names in the source files; `content` is the one to embed.

    `fingerprints` are the encoders of which a row gets a vector, all in one commit.
    `fill_only`: rows that the collection holds without a vector of these encoders get one, and no row is added.
    `from_kept`: the rows come from the collection's kept source, each with its payload (`kept_rows.py`).
    """

    collection: str
    fingerprints: tuple[str, ...]
    content: str
    modality: Modality
    id: str | None
    subject: str | None
    tenant: str | None
    time: str | None
    kept_types: dict[str, str]
    id_prefix: str
    check: bool
    start_version: int
    fill_only: bool = False
    from_kept: bool = False

    @property
    def id_columns(self) -> list[str]:
        return [self.id] if self.id else []

    @property
    def columns(self) -> list[str]:
        named = [self.id, self.content, self.subject, self.tenant, self.time, *self.kept_types]
        return list(dict.fromkeys(c for c in named if c is not None))


@dataclass
class EmbedCounts:
    """What became of the rows read: added + filled + known + absent + set_aside = read.

    `filled` rows were there and got the vectors that they lacked; `absent` ones are not in the collection, where a job
    only fills, or their content is not in its kept source. `encoded_by` counts rows by backend and device, as "openvino on cpu";
    a row that several encoders encode there counts once.
    """

    OUTCOMES: ClassVar = ("added", "filled", "known", "absent", "set_aside")

    read: int = 0
    added: int = 0
    filled: int = 0
    known: int = 0
    absent: int = 0
    set_aside: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    encoded_by: dict[str, int] = field(default_factory=dict, compare=False)

    def add(self, other: EmbedCounts) -> None:
        for name in ("read", *self.OUTCOMES):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in ((self.reasons, other.reasons), (self.encoded_by, other.encoded_by)):
            for name, n in theirs.items():
                mine[name] = mine.get(name, 0) + n


def batch_rows(plan: EmbedPlan) -> int:
    """How many rows are read at a time."""
    return _IMAGE_ROWS if plan.modality == "image" else BATCH_ROWS


def batches_of(block: Block, content: str) -> list[tuple[int, int]]:
    """The block in runs of at most BATCH_CHARS characters or BATCH_BYTES bytes, so that a commit is never far away."""
    runs, start, share = [], 0, 0.0
    for i, value in enumerate(block.columns[content]):
        share += len(value) / BATCH_CHARS if isinstance(value, str) else 0
        share += len(value) / BATCH_BYTES if isinstance(value, bytes) else 0
        if share >= 1:
            runs.append((start, i + 1))
            start, share = i + 1, 0.0
    if start < block.n_rows:
        runs.append((start, block.n_rows))
    return runs
