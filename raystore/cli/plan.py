"""plan: what a job will take, from a small one of its kind that is really run, in a scratch store, and thrown away."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raystore.cli.encoders import ImageColumn, Prices, SampleFiles, TextColumn
from raystore.cli.samples import parse_prices
from raystore.cli.state import STATE
from raystore.encoders.passport import Modality
from raystore.encoders.plan import pace_of, plan_embed
from raystore.encoders.records import KIND
from raystore.errors import InvalidArguments
from raystore.layout import Layout, staging
from raystore.session import INLINE_BELOW, choose_workers

if TYPE_CHECKING:
    from raystore.encoders.registry import Encoder
    from raystore.store import Store

CALL = "plan embed"
MAX_SAMPLE_ROWS = 20_000  # a sample is embedded whole
_SAMPLE_S = 15.0  # how long a generated sample is to keep the job busy
_FILES_A_WORKER = 6  # files of a generated sample: so many that the last one holds nobody up for long
_FILE_ROWS = {"text": 1_024, "image": 64}  # at most, in a file of a generated sample
_TRIED = {"text": 256, "image": 32}  # items that tell how large it should be

plan = typer.Typer(help="Plans: hours, money and disk before a job is run.", no_args_is_help=True, rich_markup_mode=None)


@dataclass(frozen=True)
class Measured:
    """What a small job of the same kind took: `rows` of it on `workers`, and what they left on the disk."""

    rows: int
    workers: int
    seconds: float
    rows_per_s: float
    startup_s: float
    row_bytes: float
    index_bytes: float
    sample: str

    def __str__(self) -> str:
        how = "in one process" if self.workers == 0 else f"on {self.workers} workers"
        return (
            f"measured: {self.rows:,} items of {self.sample}, read, encoded and committed {how} in {self.seconds:.1f} s, "
            f"{self.startup_s:.1f} s of it the start"
        )


@plan.callback()
def group() -> None:
    """Keeps `plan embed` a verb of two words while it is the only one."""


@plan.command("embed")
def plan_embed_verb(
    items: Annotated[str, typer.Option(help="How many there are to embed; 3e7 is 30 million.")],
    kind: Annotated[Literal["text", "image"] | None, typer.Option(help="By default what the encoder takes.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Needed where the store has several.")] = None,
    sample: SampleFiles = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    workers: Annotated[
        int | None, typer.Option(help="Of the job; 0 is one process. More than cores are more machines like this one.")
    ] = None,
    price: Prices = [],  # noqa: B006
) -> None:
    """Hours, money and disk of an embedding job, from a sample embedded here. Without --sample, one is generated."""
    wanted = _number(items)
    prices = parse_prices(price, CALL)
    store = STATE.open()
    chosen = _encoder(store, encoder, kind)
    modality = kind or chosen.passport.modalities[0]
    asked = choose_workers(workers, wanted, INLINE_BELOW.embed_rows, CALL)
    cores = max(1, os.cpu_count() or 1)
    machines = max(1, -(-asked // cores))
    measured = measure(store, chosen, modality, sample, text or image, min(asked, cores))
    device = "gpu" if "gpu" in prices and "cpu" not in prices else "cpu"
    report = plan_embed(
        wanted, measured.rows_per_s, measured.startup_s, asked, chosen.dim, prices.get(device),
        row_bytes=measured.row_bytes, index_bytes=measured.index_bytes, machines=machines,
    )  # fmt: skip
    facts = {"encoder": chosen.label, "kind": modality, **report.facts, "measured": measured.__dict__}
    STATE.out.emit(facts, lambda: STATE.out.say(f"{chosen.label}: {report}\n  {measured}"))


def _number(text: str) -> int:
    try:
        found = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e15 or found != int(found):
        raise InvalidArguments(call=CALL, problems=[f"--items is '{text[:40]}', expected a whole number such as 3e7"])
    return int(found)


def _encoder(store: Store, name: str | None, kind: Modality | None) -> Encoder:
    """The named one, or the store's only one that takes this kind."""
    if name is not None:
        found = store.encoder(name)
        if kind is not None and kind not in found.passport.modalities:
            takes = " and ".join(found.passport.modalities)
            raise InvalidArguments(call=CALL, problems=[f"encoder {found.label} takes {takes}, not {kind}"])
        return found
    known = [store.encoder(n) for n in store.encoders]
    fit = [e for e in known if kind is None or kind in e.passport.modalities]
    if len(fit) != 1:
        names = ", ".join(e.name for e in fit) or "none"
        raise InvalidArguments(call=CALL, problems=[f"--encoder is needed: the store has {names} for this"])
    return fit[0]


def measure(
    store: Store, encoder: Encoder, kind: Modality, files: Sequence[str], content: str | None, workers: int
) -> Measured:
    """A small job in a scratch store on the same disk, by the same code and pool as the real one, index included.

    Raises:
        InvalidArguments: a sample of more than 20,000 rows, or whatever the job itself refuses.
    """
    from raystore.data.ingest import EmbedReport

    with _scratch(store) as (scratch, folder):
        STATE.out.step(f"loading {encoder.label}")
        began = time.monotonic()
        loaded = encoder.load()
        load_s = time.monotonic() - began
        said = ", ".join(files)
        if files:
            _check_size(files)
        else:
            said = f"generated {kind}s"
            tried = _generated(kind, _TRIED[kind])
            loaded.encode(tried[: len(tried) // 4])
            began = time.monotonic()
            loaded.encode(tried)
            pace = len(tried) / (time.monotonic() - began)
            files = _write(folder / "sample", kind, round(pace * _SAMPLE_S), max(1, workers))
            content = kind
        del loaded
        target = scratch.create_collection("sample", encoder=encoder.fingerprint)
        column: dict[str, Any] = {kind: content or kind}
        points: list[tuple[float, int]] = []
        STATE.out.step(f"embedding {said}")
        began = time.monotonic()

        def watch(done: int, _: int) -> None:
            points.append((time.monotonic() - began, done))

        report = target.embed(files, **column, workers=workers, progress=watch)
        seconds = time.monotonic() - began
        assert isinstance(report, EmbedReport)
        if not report.added:
            raise InvalidArguments(call=CALL, problems=["no row of the sample could be embedded"])
        rows_per_s, startup_s = pace_of(points, seconds, report.read, load_s)
        if workers == 0:  # the libraries were imported by the first load, as a process that does the job has to
            startup_s = max(startup_s, load_s)
        row_bytes = _size(scratch.layout.rows("sample")) / report.added
        target.build_index(workers=0, served="inline")
        index_bytes = _size(scratch.layout.indexes("sample", encoder.fingerprint)) / report.added
        target.close()
    return Measured(report.read, workers, seconds, rows_per_s, startup_s, row_bytes, index_bytes, said)


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


def _check_size(files: Sequence[str]) -> None:
    from raystore.data.readers import SOURCES, find_files
    from raystore.data.readers import plan as plan_files

    sources, _ = plan_files(find_files(list(files), CALL, SOURCES), 1, CALL)
    total = sum(source.n_rows for source in sources)
    if total > MAX_SAMPLE_ROWS:
        problem = f"the sample has {total:,} rows, and is embedded whole: give files with {MAX_SAMPLE_ROWS:,} at most"
        raise InvalidArguments(call=CALL, problems=[problem])


def _generated(kind: Modality, n: int) -> Sequence[str | bytes]:
    if kind == "text":
        from raystore.encoders.sample import sample_texts

        return sample_texts(n)
    from raystore.encoders.image_probes import sample_images

    return sample_images(n)


def _write(folder: Path, kind: Modality, n: int, workers: int) -> list[str]:
    """Parquet files of about `n` generated items, a few for each worker."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    n = min(max(n, 2 * _TRIED[kind]), MAX_SAMPLE_ROWS)
    step = min(_FILE_ROWS[kind], max(16, -(-n // (workers * _FILES_A_WORKER))))
    items = _generated(kind, n)
    files = []
    for number, start in enumerate(range(0, n, step)):
        files.append(str(folder / f"part-{number:04}.parquet"))
        pq.write_table(pa.table({kind: pa.array(items[start : start + step])}), files[-1])
    return files


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
