"""The collection a user meets: write, read, search. The work stands in the rooms `data` and `index`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, overload

import pyarrow as pa

from raystore.access import LOCAL, Principal
from raystore.data.collection import CollectionTable
from raystore.data.columns import SYSTEM
from raystore.data.current import default_first
from raystore.data.kept_source import read_source
from raystore.data.keyed import quoted
from raystore.data.log import LogResult, RowLog
from raystore.data.manifest import read_jobs
from raystore.data.set_aside import set_aside_rows
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.registry import Encoder
from raystore.encoders.together import load_together
from raystore.errors import HeadNotFound, InvalidArguments, ItemNotFound
from raystore.index.manifest import newest_number
from raystore.markup import facts_html
from raystore.migrating import Migrating
from raystore.progress import Progress, shown
from raystore.train.predicting import predictions_of

if TYPE_CHECKING:
    import ray.data

    from raystore.data.drift.report import DriftReport
    from raystore.data.dry_run import DryRun
    from raystore.data.fill import FillReport
    from raystore.data.ingest import EmbedReport
    from raystore.data.pool_size import Workers
    from raystore.data.publish.parts import Predictions
    from raystore.data.publish.publish import Published
    from raystore.encoders.items import Item
    from raystore.store import Store
    from raystore.train.heads import Head

    Source: TypeAlias = str | Path | Sequence[str | Path] | ray.data.Dataset


class JobArguments(TypedDict, total=False):
    """What `Collection.embed` takes beside its source and dry_run."""

    text: str | None
    image: str | None
    id: str | None
    subject: str | None
    tenant: str | None
    time: str | None
    keep: Sequence[str]
    id_prefix: str
    check: bool
    encoder: str | Sequence[str] | None
    workers: Workers
    gpu_workers: Workers
    gpus_per_worker: float
    progress: Progress | None


class Collection(Migrating):
    """One collection of a store; get it from `store.collection(name)` or `store.create_collection(name, ...)`.

    Every call reads the newest version. `len(collection)` is its number of rows.
    """

    def __init__(self, store: Store, table: CollectionTable) -> None:
        super().__init__(store, table)
        self._logs: dict[tuple[str, ...], RowLog] = {}
        self._loaded: Mapping[str, LoadedEncoder] = {}  # what `log` encodes with

    def __repr__(self) -> str:
        encoders = ", ".join(self.encoder_labels) or "none"
        return f"<collection {self.name}: {len(self):,} rows, encoder {encoders}, version {self.version}>"

    def _repr_html_(self) -> str:
        numbers = {e.label: newest_number(self._store.layout, self.name, e.fingerprint) for e in self.encoders}
        facts = {
            "rows": len(self),
            "version": self.version,
            "columns": [*SYSTEM, *(f"{name} {kind}" for name, kind in self.columns.items())],
            "encoders": self.encoder_labels,
            "indexes": [f"{label} index {number}" for label, number in numbers.items() if number] or "none",
            "keeps raw content": self.keeps_source,
        }
        return facts_html(f"Collection {self.name}", facts)

    def log(
        self, rows: Sequence[Mapping[str, Any]], *, fingerprint: str | None = None, add_columns: bool = False
    ) -> LogResult:
        """What was written: version, rows added, rows known before. Committed when this returns.

        A row gets a vector of every encoder of the collection that takes its content: afterwards the content is gone.

        Args:
            rows: mappings with `id` and one of `text`, `image` (a file's bytes) and `vector`, optionally `subject`,
                `tenant`, `time`, kept columns.
            fingerprint: the encoder of the vectors, needed where vectors are given.
            add_columns: add kept columns that are not there yet; otherwise rows that bring them are refused.

        Raises:
            InvalidRows, PassportMismatch, IdConflict, DiskFull, WriterBlocked: nothing was written.

        Cost: the encoding, then about 6 ms; calls of many threads share a commit.
        """
        # Another process may have added an encoder, or cut over to another.
        fingerprints = tuple(default_first(self._store.catalog, self._table))
        if fingerprints not in self._logs:
            if self._loaded.keys() != set(fingerprints):
                self._loaded = load_together([self._encoder_of(each) for each in fingerprints])
            encoders = {each: self._loaded[each] for each in fingerprints}
            self._logs = {fingerprints: RowLog(self._table, encoders, self._store.key)}
        return self._logs[fingerprints].log(rows, fingerprint=fingerprint, add_columns=add_columns)

    @overload
    def embed(self, paths: Source, *, dry_run: Literal[False] = False, **job: Unpack[JobArguments]) -> EmbedReport: ...

    @overload
    def embed(self, paths: Source, *, dry_run: Literal[True], **job: Unpack[JobArguments]) -> DryRun: ...

    def embed(
        self,
        paths: Source,
        *,
        text: str | None = None,
        image: str | None = None,
        id: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        time: str | None = None,
        keep: Sequence[str] = (),
        id_prefix: str = "",
        check: bool = False,
        encoder: str | Sequence[str] | None = None,
        workers: Workers = None,
        gpu_workers: Workers = None,
        gpus_per_worker: float = 1.0,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> EmbedReport | DryRun:
        """What became of the rows of the files: embedded, filled, known already, or set aside with a reason.

        A row gets a vector of every encoder of the collection that takes its content, from one read and in one commit. Run it
        again after a kill at any point: it goes on where it stopped. Known ids that lack no vector are skipped without reading
        their content, unless `check=True`, which reads it and sets rows with another content aside.

        Args:
            paths: Parquet, CSV, TSV, JSONL, Arrow or Lance, folders or tars of images; files, folders, patterns or URLs;
                CSV and JSONL as UTF-8. Or a ray.data.Dataset, into a collection made with keep_source=True: its blocks,
                and so the content, lie in Ray's object store.
            text, image: the column to embed, one of the two; an image is a file's bytes. It is never kept. Folders and
                tars of image files need neither: their `image` is embedded, with `name` as the id.
            id: the column of ids, strings or integers; without it, ids are file name and row number.
            subject, tenant, time, keep: columns kept beside the vector.
            id_prefix: put before every id, for files whose ids are unique only within them.
            encoder: where the collection has several, the one or those whose vectors the rows get; by default all that take
                the content. A row that is there and lacks a vector of one of them is filled, if its content is what was
                embedded before. A row that one of them cannot encode is set aside whole.
            workers: 0 embeds in this process, more on so many Ray workers without a GPU; (1, 8) is a pool that grows and
                shrinks. By default inline below 2,000 rows, else on every GPU of the Ray, else on every core.
            gpu_workers: Ray workers with a GPU each, beside the others; (0, 4) takes up to four, if there are GPUs.
            gpus_per_worker: the share of a GPU that one gets, so that several fit on one.
            dry_run: try some 256 rows in this process, write nothing, and return a DryRun: pace, time, bytes, problems.
            progress: called with rows done and rows in all (0 for a Ray Dataset); without it, a bar on a terminal and in
                a notebook.

        Raises:
            InvalidArguments: files or columns that are not there, workers that cannot be, a Ray Dataset for a collection
                that keeps no content; all are named, nothing was written.
            DiskFull, JobFailed: what is committed is safe; run the same call again.
        """
        from raystore.data.dry_run import dry_run_files
        from raystore.data.ingest import embed_files
        from raystore.data.manifest import SourceColumns
        from raystore.data.pool import is_ray_dataset
        from raystore.data.ray_dataset import dry_run_ray_dataset, embed_ray_dataset

        source: Any = paths
        columns = SourceColumns(text, image, id, subject, tenant, time, tuple(keep))
        named = [encoder] if isinstance(encoder, str) else encoder
        chosen = self.encoders if named is None else list(dict.fromkeys(self.encoder(each) for each in named))
        if not chosen:
            problem = "encoder= names none: leave it out for all" if self._table.fingerprints else "it has no encoder"
            raise InvalidArguments(call=f"embed into '{self.name}'", problems=[problem])
        job = self._table, chosen, self._store.key, source, columns
        if dry_run:
            tried = dry_run_ray_dataset if is_ray_dataset(paths) else dry_run_files
            return tried(*job, named=named is not None, id_prefix=id_prefix, check=check)
        embed = embed_ray_dataset if is_ray_dataset(paths) else embed_files
        with shown(progress, f"embedding into {self.name}") as advance:
            return embed(
                self._store.layout,
                *job,
                named=named is not None,
                id_prefix=id_prefix,
                check=check,
                workers=workers,
                gpu_workers=gpu_workers,
                gpus_per_worker=gpus_per_worker,
                progress=advance,
            )

    def add_encoder(
        self,
        encoder: str | Encoder,
        *,
        workers: Workers = None,
        gpu_workers: Workers = None,
        gpus_per_worker: float = 1.0,
        progress: Progress | None = None,
    ) -> FillReport:
        """What became of the rows that lacked a vector of this encoder; the collection holds its vectors from now on.

        Embeds from the files of earlier `embed` jobs (see `jobs`) and fills only what is missing, so it may be run
        again at any time: after a kill, or after more was embedded. A row whose content is no longer what was
        embedded before is set aside with that reason. Rows that came by `log` have no file to be filled from: the
        report counts them in `left`, and from now on `log` encodes with this encoder too. A collection made with
        keep_source=True fills all of its rows from their kept content instead, and reads no file.

        Args:
            workers, gpu_workers, gpus_per_worker: as for `embed`.

        Raises:
            EncoderNotFound, ModelUnusable, GoldenMoved; DiskFull, JobFailed: what is committed is safe; run it again.
        """
        from raystore.data.fill import add_encoder

        added = self._store.encoder(encoder if isinstance(encoder, str) else encoder.fingerprint)
        with shown(progress, f"embedding {self.name} with {added.label}") as advance:
            return add_encoder(
                self._store.layout,
                self._table,
                added,
                self._store.key,
                workers=workers,
                gpu_workers=gpu_workers,
                gpus_per_worker=gpus_per_worker,
                progress=advance,
            )

    def source(self, ids: Sequence[str]) -> list[Item]:
        """The content of the rows with these ids, in their order: a str for a text, bytes for an image file.

        Raises:
            InvalidArguments: the collection keeps no content; only one made with keep_source=True does.
            ItemNotFound: the first id that is not there, or whose row was given as a vector.
        """
        return read_source(self._table, list(ids))

    def jobs(self) -> list[dict[str, Any]]:
        """What was embedded from where, oldest first: number, kind (embed or fill), started, ended, failed, encoder,
        fingerprint, fingerprints (of all its encoders), columns, id_prefix, files (path, rows, size_bytes, modified), workers,
        encoded_by, counts, reasons.

        A job that was killed, or still runs, has no end (None).
        """
        return [job.model_dump(mode="json") for job in read_jobs(self._store.layout, self.name)]

    def set_aside(self) -> pa.Table:
        """The rows that could not be embedded: id (where it could be read), source file, row number (from 0), reason.

        A history: a row that was mended and embedded later stays listed.
        """
        return set_aside_rows(self._store.layout, self.name)

    def to_arrow(
        self, columns: Sequence[str] | None = None, *, where: str | None = None, as_of: int | None = None
    ) -> pa.Table:
        """The rows, without vectors unless their column is named."""
        return self._table.to_arrow(columns, where, as_of)

    def get(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows with these ids, in their order. ItemNotFound names the first that is not there."""
        wanted = list(ids)
        if not wanted:
            return []
        table = self._table.rows.dataset().to_table(
            columns=self._table.visible, filter=f"id IN ({', '.join(quoted(str(i)) for i in wanted)})"
        )
        found = {row["id"]: row for row in table.to_pylist()}
        missing = next((i for i in wanted if i not in found), None)
        if missing is not None:
            raise ItemNotFound(name=str(missing), where=f"collection '{self.name}'")
        return [found[i] for i in wanted]

    def publish(
        self,
        uri: str | Path,
        *,
        columns: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        predictions: Sequence[str] = (),
        vectors: bool = False,
        encoder: str | None = None,
        principal: Principal = LOCAL,
        progress: Progress | None = None,
    ) -> Published:
        """A Parquet copy of the collection for a warehouse, brought up to date: what is new is added, what is gone leaves it.

        Run it again at any time; each row stands in it exactly once. `rows/`, `labels/<table>/` and `predictions/<head>/` are
        folders of Parquet files that BigQuery, Snowflake, Spark and DuckDB read by a pattern. See docs/publish.md.

        Args:
            uri: a local folder, or an address that fsspec knows.
            columns: kept columns to copy; None copies all, also ones that are added later.
            labels: source tables with an `id` key, each a folder of its own.
            predictions: heads ("refunds", "refunds@live"), each a folder of its own: one version of each.
            vectors: also the vectors of `encoder` (by default the current one); needs the verb `vectors`.
            progress: called with rows read and rows to read; without it, a bar on a terminal and in a notebook.

        Raises:
            NotAllowed, InvalidArguments, HeadNotFound, TableNotFound, ExtraNotInstalled.
            WriterBlocked: another call is publishing there.
        """
        from raystore.data.publish.publish import publish

        heads = self._heads_by_folder(predictions)
        with shown(progress, f"publishing {self.name}") as advance:
            return publish(
                self._table,
                str(uri),
                columns=columns,
                labels={name: self._store.table(name) for name in labels},
                predictions={folder: predictions_of(head, self._table) for folder, head in heads.items()},
                vectors=vectors,
                fingerprint=self.encoder(encoder).fingerprint if vectors else None,
                principal=principal,
                progress=advance,
            )

    def _heads_by_folder(self, references: Sequence[str]) -> dict[str, Head]:
        """The heads by the folder of a copy that holds their predictions. InvalidArguments where two would share one."""
        heads: dict[str, Head] = {}
        problems = []
        for head in map(self._store.heads.get, references):
            first = heads.setdefault(head.name.replace("-", "_"), head)
            if first.label != head.label:
                problems.append(f"predictions= names {first.label} and {head.label}: a copy holds one version of a head")
        if problems:
            raise InvalidArguments(call=f"publish '{self.name}'", problems=problems)
        return heads

    def republish(self, *, progress: Progress | None = None) -> list[Published]:
        """What became of every copy that `publish` ever made, brought up to date as it was last asked for; run it after an erase.

        Where a head or a label table of a copy is gone, its folder loses the rows that are gone and gets no new ones.

        Args:
            progress: as of `publish`, copy by copy.

        Raises:
            WriterBlocked, and what the file systems raise: the copies before that one are done. Call again.
        """
        from raystore.data.publish.publish import republish_all

        def of_head(reference: str) -> Predictions | None:
            try:
                return predictions_of(self._store.heads.get(reference), self._table)
            except HeadNotFound:
                return None

        with shown(progress, f"publishing {self.name}") as advance:
            return republish_all(self._store.catalog, self.name, predictions=of_head, progress=advance)

    def drift(
        self, since: int | str | datetime, *, label: str | None = None, encoder: str | None = None, seed: int = 0
    ) -> DriftReport:
        """Whether the rows since a version or a time come from where those before came from.

        Args:
            since: a version of the collection (rows added after it), or a time (rows whose `time` is not before it).
            label: a kept column whose shares are compared too.
            encoder: whose vectors are compared; needed only where the collection has several and none of them is current.
        """
        from raystore.data.drift.samples import collection_drift

        asked = self.the_encoder(encoder, f"drift of '{self.name}'")
        return collection_drift(self._table, asked.fingerprint, since, label=label, seed=seed)
