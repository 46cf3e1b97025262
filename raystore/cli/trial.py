"""A small embedding job that is really run, in a scratch store on the same disk, to tell what a large one will take.

Its start is measured by jobs of a few rows, its pace by the sample, embedded as often as it takes for some seconds of
work. Only references are repeated: the workers read the user's files again, and no content is written anywhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raystore.encoders.passport import Modality
from raystore.encoders.plan import Pace, pace_of
from raystore.encoders.records import KIND
from raystore.errors import InvalidArguments
from raystore.layout import Layout, staging

if TYPE_CHECKING:
    from raystore.collection import Collection
    from raystore.data.job import EmbedCounts
    from raystore.data.manifest import SourceColumns
    from raystore.data.readers import Reference
    from raystore.encoders.registry import Encoder
    from raystore.store import Store

CALL = "plan embed"
MAX_SAMPLE_ROWS = 20_000  # a sample is embedded whole
_STEADY_S = 10.0  # of work, beside the start, that a pace is told from
_NEARLY = 0.7  # of it is enough not to start again
_ROUNDS = 4
_NOISE_S = {"one process": 0.1, "workers": 1.0}  # what one start differs by from another; less work than that tells nothing
_GENERATED = {"text": 2_048, "image": 128}
_START_ROWS = 2  # a worker

Said = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What a small job of the same kind took: `rows` of the sample were embedded, `times` over, on `workers`.

    `startup_s` is the start of the first job of a process, with Ray and the encoder. `left_out` rows could not be embedded.
    """

    rows: int
    times: int
    workers: int
    startup_s: float
    pace: Pace
    row_bytes: float
    index_bytes: float
    sample: str
    left_out: int = 0

    def __str__(self) -> str:
        how = "in one process" if self.workers == 0 else f"on {self.workers} workers"
        again = f", {self.times:,} times over" if self.times > 1 else ""
        without = f" ({self.left_out:,} cannot be embedded and were left out)" if self.left_out else ""
        return f"measured: {self.rows:,} items of {self.sample}{without}, read, encoded and committed {how}{again}; {self.pace}"


@dataclass(frozen=True)
class _Ran:
    counts: EmbedCounts
    seconds: float
    points: list[tuple[float, int]]


def measure(
    store: Store,
    encoder: Encoder,
    kind: Modality,
    files: Sequence[str],
    content: str | None,
    workers: int,
    said: Said = lambda _: None,
) -> Measured:
    """A small job by the same code and on the same pool as the real one, an index over it included.

    Raises:
        InvalidArguments: a sample of more than 20,000 rows, or whatever the job itself refuses.

    Cost: two starts, some 10 s of work or the sample once, whichever is longer, and a start more for a small sample.
    """
    with _scratch(store) as (scratch, folder):
        job = _Job(scratch, scratch.encoder(encoder.fingerprint), kind, workers)
        references, columns = job.look(files, content or kind) if files else ([], None)
        made = _write(folder / "start", kind, max(1, workers), _START_ROWS)
        few, its_columns = job.look(made, kind)
        said(f"starting {encoder.label}")
        startup_s = job.run("start", few, its_columns).seconds
        again_s = job.run("again", few, its_columns).seconds
        if columns is None:
            said(f"making {kind}s")
            references, columns = job.look(_write(folder / "sample", kind, 1, _GENERATED[kind]), kind)
        name = ", ".join(files) or f"generated {kind}s"
        said(f"embedding {name}")
        ran, copies, pace = _steady(job, references, columns, again_s)
        target = scratch.collection("sample")
        target.build_index(workers=0, served="inline")
        rows = len(target)
        row_bytes = _size(scratch.layout.rows("sample")) / rows
        index_bytes = _size(scratch.layout.indexes("sample", encoder.fingerprint)) / rows
        target.close()
    left_out = ran.counts.set_aside // copies
    return Measured(ran.counts.added // copies, copies, workers, startup_s, pace, row_bytes, index_bytes, name, left_out)


def _steady(job: _Job, references: Sequence[Reference], columns: SourceColumns, start_s: float) -> tuple[_Ran, int, Pace]:
    """The last of some jobs over copies of the sample, long enough to tell a pace, how many copies it had, and its pace."""
    noise_s = _NOISE_S["workers" if job.workers else "one process"]
    # As many slices for each worker, so that none idles at the end.
    even = job.workers // math.gcd(len(references), job.workers) if job.workers else 1
    copies, done = even, 0
    for last in range(_ROUNDS, 0, -1):
        ran = job.run("sample", _copied(references, done, copies), columns)
        if not ran.counts.added:
            raise InvalidArguments(call=CALL, problems=["no row of the sample could be embedded"])
        pace = pace_of(ran.points, ran.seconds, ran.counts.added, start_s, noise_s)
        if last == 1 or pace.steady_s >= _NEARLY * _STEADY_S:
            break
        done += copies
        copies = even * math.ceil(copies / even * _STEADY_S / max(pace.steady_s, noise_s))
    return ran, copies, pace


def _copied(references: Sequence[Reference], done: int, copies: int) -> list[Reference]:
    """The same slices under other row numbers, which are the ids of rows without an id column."""
    rows = max(reference.first_row + reference.n_rows for reference in references)
    numbers = range(done, done + copies)
    return [replace(each, first_row=each.first_row + number * rows) for number in numbers for each in references]


class _Job:
    """Embedding into collections of the scratch store, with one encoder on as many workers each time."""

    def __init__(self, store: Store, encoder: Encoder, kind: Modality, workers: int) -> None:
        self.workers = workers
        self._store = store
        self._encoder = encoder
        self._kind = kind

    def look(self, files: Sequence[str], content: str) -> tuple[list[Reference], SourceColumns]:
        """The files' slices and what they hold. Raises InvalidArguments where they are no sample."""
        from raystore.data.ingest import check_sources
        from raystore.data.manifest import SourceColumns
        from raystore.data.readers import SOURCES, find_files
        from raystore.data.readers import plan as plan_files

        columns = SourceColumns(text=content) if self._kind == "text" else SourceColumns(image=content)
        sources, references = plan_files(find_files(list(files), CALL, SOURCES), max(1, self.workers), CALL)
        total = sum(source.n_rows for source in sources)
        if total > MAX_SAMPLE_ROWS:
            problem = f"the sample has {total:,} rows, and is embedded whole: give files with {MAX_SAMPLE_ROWS:,} at most"
            raise InvalidArguments(call=CALL, problems=[problem])
        check_sources(sources, columns, [self._encoder], self._open("sample")._table, CALL)
        if not total:
            raise InvalidArguments(call=CALL, problems=["the sample has no rows"])
        return references, columns

    def run(self, name: str, references: Sequence[Reference], columns: SourceColumns) -> _Ran:
        """What a job over these slices did, as `Collection.embed` would have done it."""
        from raystore.data.ingest import plan_of, run_slices
        from raystore.data.job import EmbedCounts
        from raystore.data.pool_size import check_pool

        table = self._open(name)._table
        plan = plan_of(table, [self._encoder], columns, {})
        asked = check_pool(self.workers, None, 1.0, CALL)
        counts, points, began = EmbedCounts(), list[tuple[float, int]](), time.monotonic()

        def watch(done: int, _: int) -> None:
            points.append((time.monotonic() - began, done))

        layout, key = self._store.layout, self._store.key
        run_slices(layout, table, plan, [self._encoder], key, references, asked, counts, watch)
        return _Ran(counts, time.monotonic() - began, points)

    def _open(self, name: str) -> Collection:
        return self._store.create_collection(name, encoder=self._encoder, exist_ok=True)


@contextmanager
def _scratch(store: Store) -> Iterator[tuple[Store, Path]]:
    """An empty store with the other's encoders, and a folder beside it; both gone afterwards."""
    from raystore.store import open as open_store

    with staging(store.layout.tmp) as stage:
        scratch = open_store(stage / "store")
        for new, old in zip(_encoder_folders(scratch.layout), _encoder_folders(store.layout), strict=True):
            new.parent.mkdir(parents=True, exist_ok=True)
            new.symlink_to(old, target_is_directory=True)
        yield scratch, stage


def _encoder_folders(layout: Layout) -> tuple[Path, Path]:
    return layout.encoders(), layout.aliases(KIND)


def _write(folder: Path, kind: Modality, files: int, rows: int) -> list[str]:
    """Parquet files of `rows` generated items each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    items = _generated(kind, files * rows)
    paths = [str(folder / f"part-{number:04}.parquet") for number in range(files)]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({kind: pa.array(items[number * rows : (number + 1) * rows])}), path)
    return paths


def _generated(kind: Modality, n: int) -> Sequence[str | bytes]:
    if kind == "text":
        from raystore.encoders.sample import sample_texts

        return sample_texts(n)
    from raystore.encoders.image_probes import sample_images

    return sample_images(n)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
