"""What an orchestrator is handed, as far as it looks at it: heads, collections, known encoders.

Shapes alone. `loading.py` fills them from a store, a test from anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Unpack

import numpy as np
import numpy.typing as npt

from raystore.data.log import LogResult
from raystore.data.sandbox.process import Rows
from raystore.encoders.passport import Modality
from raystore.index.metric import Metric
from raystore.index.search.asked import SearchOptions
from raystore.serve.answer.batching import BatchingEncoder
from raystore.train.source import Task
from raystore.vectors import Matrix, Vectors


class Predicted(Protocol):
    """(n, c) probabilities, whose columns are of `classes`; labels by the head's task, as `heads.Predictions` has them."""

    @property
    def probabilities(self) -> npt.NDArray[np.float32]: ...
    @property
    def labels(self) -> Sequence[Any]: ...
    @property
    def confidence(self) -> npt.NDArray[np.float32]: ...
    @property
    def abstained(self) -> npt.NDArray[np.bool_]: ...
    @property
    def classes(self) -> Sequence[str]: ...


class ServedHead(Protocol):
    @property
    def task(self) -> Task: ...
    @property
    def classes(self) -> Sequence[str]: ...  # as far as this process knows; a prediction's own are its columns'
    async def ask(self, vectors: Vectors) -> Predicted: ...  # holds up no event loop for long


@dataclass(frozen=True)
class Found:
    """One query's hits, best first, and what the search covered; `bridged` says by what the hits that are `mapped` were mapped."""

    ids: list[str]
    scores: list[float]
    columns: list[dict[str, Any]]
    mapped: list[bool]
    coverage: float
    missing: list[int]
    exact: bool
    metric: Metric
    version: int
    index_version: int | None
    truncated: bool
    cursor: str | None
    bridged: Mapping[str, Any] | None


class ServedCollection(Protocol):
    @property
    def fingerprints(self) -> list[str]: ...  # the one it is asked by first
    @property
    def columns(self) -> Mapping[str, str]: ...  # that it keeps
    @property
    def loaded_as(self) -> Mapping[str, str]: ...  # which of them is loaded for each
    def vectors_of(self, ids: Sequence[str], fingerprint: str) -> Vectors: ...
    def log(
        self,
        rows: Sequence[Mapping[str, Any]],
        encoders: Mapping[str, BatchingEncoder],
        fingerprint: str | None,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> LogResult: ...
    def append(
        self,
        rows: Sequence[Mapping[str, Any]],
        encoders: Mapping[str, BatchingEncoder],
        fingerprint: str | None,
        encoded: Mapping[str, Mapping[str, Matrix]] | None = None,
    ) -> int: ...
    def take_in(self) -> None: ...
    @property
    def journal(self) -> tuple[int, int]: ...  # bytes that wait to be taken in, and that may
    def search(
        self, query: object, *, fingerprint: str, without: Sequence[str], **options: Unpack[SearchOptions]
    ) -> Found: ...


class ServedSql(Protocol):
    """`raystore.data.sandbox.process.SqlSandbox`, as far as it is looked at."""

    def run(
        self,
        sql: str,
        params: Mapping[str, Any],
        *,
        collections: Sequence[str],
        tables: Sequence[str],
        limit: int,
        form: Literal["json", "arrow"],
        until: float | None,
    ) -> Rows: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Known:
    """A registered encoder, loaded or not; `created` in seconds since 1970."""

    name: str
    fingerprint: str
    modalities: tuple[Modality, ...]
    dim: int
    created: int
