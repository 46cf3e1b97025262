"""What was embedded from where: one numbered record a job, made when it starts and completed when it ends.

    collections/<name>/jobs/<n>.json

A job that was killed leaves its record without an end; its rows are in the collection all the same. The records are
what a second encoder embeds from (`fill.py`). They hold names, sizes and counts: no id, no content.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.catalog import Catalog
from raystore.data.job import EmbedCounts
from raystore.encoders.passport import Modality
from raystore.errors import StoreUnusable
from raystore.layout import Layout, numbers, read_json, write_json


@dataclass(frozen=True)
class SourceColumns:
    """Which columns of the source files hold what. One of `text` and `image` is embedded and never kept."""

    text: str | None = None
    image: str | None = None
    id: str | None = None
    subject: str | None = None
    tenant: str | None = None
    time: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """The column to embed."""
        return self.text or self.image or ""

    @property
    def modality(self) -> Modality:
        return "image" if self.image else "text"


class JobFile(BaseModel):
    """A source file as it was when the job planned it; `modified` is UTC, None where the file system does not say."""

    model_config = ConfigDict(frozen=True)

    path: str
    rows: int
    size_bytes: int | None = None
    modified: str | None = None


class JobRecord(BaseModel):
    """A job. `ended` is None while it runs and when it was killed; `failed` is the kind of error that ended it."""

    model_config = ConfigDict(frozen=True)

    number: int = 0
    kind: Literal["embed", "fill"]  # fill: vectors of one more encoder for rows that were there
    started: str
    ended: str | None = None
    failed: str | None = None
    encoder: str  # the label; of a job that wrote vectors of several, all of theirs, with commas
    fingerprint: str  # of the first
    fingerprints: tuple[str, ...] = ()  # of all
    columns: SourceColumns
    id_prefix: str = ""
    files: tuple[JobFile, ...]
    workers: int | None = None
    encoded_by: dict[str, int] = {}  # "openvino on cpu" -> rows
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}


class RunningJob:
    """Keeps the record of one job: published when the context is entered, completed when it is left.

    Ctrl-C and a kill leave it without an end.
    """

    def __init__(self, layout: Layout, collection: str, record: JobRecord) -> None:
        self._layout = layout
        self._folder = layout.jobs(collection)
        self.record = record
        self.counts = EmbedCounts()
        self.workers = 0

    def __enter__(self) -> RunningJob:
        number = Catalog(self._layout).put(self._folder, self.record.model_dump(mode="json", exclude={"number"}))
        self.record = self.record.model_copy(update={"number": number})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return
        counts = self.counts
        ended = self.record.model_copy(
            update={
                "ended": now(),
                "failed": kind.__name__ if kind else None,
                "workers": self.workers,
                "encoded_by": dict(sorted(counts.encoded_by.items())),
                "counts": {name: getattr(counts, name) for name in ("read", *counts.OUTCOMES)},
                "reasons": dict(sorted(counts.reasons.items())),
            }
        )
        write_json(self._folder / f"{ended.number}.json", ended.model_dump(mode="json"), self._layout.tmp)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_jobs(layout: Layout, collection: str) -> list[JobRecord]:
    """The collection's jobs, oldest first.

    Raises:
        StoreUnusable: a record cannot be read.
    """
    folder = layout.jobs(collection)
    return [_read(layout, folder / f"{number}.json", number) for number in numbers(folder)]


def _read(layout: Layout, path: Path, number: int) -> JobRecord:
    try:
        return JobRecord.model_validate({**read_json(path), "number": number})
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
        raise StoreUnusable(
            root=str(layout.root),
            found=f"the job record '{path}' cannot be read",
            advice="Restore it from a backup, or remove it: then a further encoder does not know of its files.",
        ) from None
