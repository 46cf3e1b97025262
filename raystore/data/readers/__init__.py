"""Source files as references: where a slice of rows lies, and how to read it back in any process.

A job hands references around, never content. Each kind of source is one file of this package with a `plan` (what the
source holds, and its slices) and a `read` (a slice's rows, block by block), so memory follows neither the size of a file nor
that of its rows. Knows nothing of encoders, collections or Ray. No error or reason quotes a row.

    kind      files                    a slice is
    parquet   .parquet .pq             rows of a row group
    csv, tsv  .csv .tsv                byte offsets of whole records
    jsonl     .jsonl .ndjson           byte offsets of whole lines
    arrow     .arrow .feather .ipc     rows from a record batch on
    lance     folder.lance             rows of a fragment, at one version
    images    a folder of image files  the names from the first to the last
    tar       .tar of image files      byte offsets of whole members
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from raystore.data.readers import arrow, images, lance, lines, parquet, tars
from raystore.data.readers.files import SOURCES, TABLES, kind_of, look, open_input
from raystore.data.readers.find import find_files
from raystore.data.readers.lines import OpenQuote, parse_text
from raystore.data.readers.reference import BATCH_BYTES, Block, Reference, SourceFile, numbered
from raystore.errors import InvalidArguments

__all__ = [
    "BATCH_BYTES", "SOURCES", "TABLES", "Block", "Reference", "SourceFile",
    "find_files", "open_input", "parse_text", "plan", "read",
]  # fmt: skip

_Planner = Callable[[str, str, int], tuple[SourceFile, list[Reference]]]
_Reader = Callable[[Reference, list[str], int, int], Iterator[Block]]
_PLANNERS: dict[str, _Planner] = {
    "parquet": parquet.plan, "csv": lines.plan, "tsv": lines.plan, "jsonl": lines.plan,
    "arrow": arrow.plan, "lance": lance.plan, "images": images.plan, "tar": tars.plan,
}  # fmt: skip
_READERS: dict[str, _Reader] = {
    "parquet": parquet.read, "csv": lines.read, "tsv": lines.read, "jsonl": lines.read,
    "arrow": arrow.read, "lance": lance.read, "images": images.read, "tar": tars.read,
}  # fmt: skip
_BY_RECORD = ("csv", "tsv", "jsonl")


def plan(paths: Sequence[str], workers: int, call: str) -> tuple[list[SourceFile], list[Reference]]:
    """What the sources hold and the slices to read them in, in the order of `paths` (those of `find_files`).

    Raises:
        InvalidArguments: sources that cannot be read; all are listed, by the kind of mistake.

    Cost: one pass over CSV and JSONL; footers of Parquet, metadata of Arrow batches and Lance; member headers of tars; one
    listing of folders. Content is kept nowhere.
    """
    files, references, problems = [], [], []
    for path in paths:
        kind = kind_of(path)
        try:
            file, slices = _PLANNERS[kind](path, kind, workers)
        except OpenQuote as error:
            problems.append(
                f"a quote that opens in {error} of '{path}' never closes, so the rows behind it cannot be told apart"
            )
        except (pa.ArrowException, tarfile.TarError, csv.Error, OSError, ValueError, KeyError) as error:
            # The parser's own words may quote a row, so only what kind of mistake it was is said.
            problems.append(f"'{path}' cannot be read as {kind} ({type(error).__name__})")
        else:
            entry = look(path)
            if entry is not None and file.size_bytes is None:
                file = replace(file, size_bytes=entry.size_bytes, modified=entry.modified)
            files.append(file)
            references += slices
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return files, references


def read(reference: Reference, columns: Sequence[str], batch_rows: int, batch_bytes: int = BATCH_BYTES) -> Iterator[Block]:
    """The slice's rows in order, a block at a time, with the named columns only.

    A block ends after `batch_rows` rows, or before its content passes `batch_bytes`; a row larger than that stands alone.
    Images are read only where their column is named, and without columns nothing is opened but CSV and JSONL.

    Raises:
        OSError, ValueError: the source is not what was planned any more, or does not answer.
    """
    wanted = list(dict.fromkeys(columns))
    if not wanted and reference.kind not in _BY_RECORD:
        return numbered(reference, batch_rows)
    return _READERS[reference.kind](reference, wanted, batch_rows, batch_bytes)
