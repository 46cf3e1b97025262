"""The rows of a spec's references, one after the other: checked, their contents handed to collectors, and nothing else kept of them.

A row that cannot be used is set aside with a reason that quotes nothing. Rows come in the order of the references, so every
process that reads a spec finds the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import pyarrow as pa

from raystore.data.job_rows import row_ids_of
from raystore.data.readers import Block, Reference, read
from raystore.data.readers.files import look
from raystore.data.rows import content_problem, id_problem, is_unicode, unusable
from raystore.encoders.ahead import ahead
from raystore.encoders.items import Item
from raystore.encoders.loaded import MAX_CHARS
from raystore.encoders.tokens import WINDOW
from raystore.errors import JobFailed, RaystoreError
from raystore.fine_tune.examples.digest import row_digest
from raystore.fine_tune.examples.labels import label_of
from raystore.fine_tune.examples.leaks import NamedRow
from raystore.fine_tune.examples.spec import DataSpec

T = TypeVar("T")
Wanted = Callable[[str, str | None], bool]  # of an entity and a label

_TWICE = "the id stands in an earlier row"
_NO_CLASS = "its label is in no row of the data"
# What parsers and codecs raise over content; their own words may quote it.
_WITH_WORDS = (pa.ArrowException, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError)


class Roles(NamedTuple):
    """The columns that are read beside the contents."""

    id: str | None
    label: str | None
    subject: str | None


class Taker(Protocol):
    """What is done with the items of one view (`reader.Collector` is one)."""

    def look(self, items: Sequence[Any]) -> list[Any]: ...
    def add(self, items: Sequence[Any], looks: Sequence[Any]) -> None: ...


@dataclass
class Found:
    """The usable rows, column by column, in the order read; their contents are with the takers."""

    takers: Sequence[Taker]
    ids: list[str] = field(default_factory=list)
    entities: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)  # number of the source, row in it
    digests: list[bytes] = field(default_factory=list)
    set_aside: list[NamedRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


class RowReader:
    """Reads references of one spec into one Found."""

    def __init__(self, spec: DataSpec, takers: Sequence[Taker], key: bytes = b"", *, views: int | None = None) -> None:
        """`views`: how many of the spec's are read; None is all, and a label with them where there is one."""
        self.found = Found(takers)
        self._spec = spec
        self._key = key
        self._views = spec.columns.views[:views]
        self._sources = {source.path: number for number, source in enumerate(spec.sources)}
        self._codes = {name: code for code, name in enumerate(spec.classes)}

    def read(self, references: Sequence[Reference], *, labelled: bool = True, only: Wanted | None = None) -> None:
        """Take the references' rows; ids are unique among those of one call.

        Args:
            labelled: False reads contents, and entities of the sources that have their column; rows get the label -1.
            only: by its entity and label, whether a row is wanted; None is all.

        Raises:
            JobFailed: a source changed since it was planned, or something nobody foresaw, told without its words.
        """
        columns = self._spec.columns
        seen: set[str] = set()
        for reference in references:
            roles = Roles(columns.id, columns.label, columns.subject)
            if not labelled:  # a pool need not have these columns
                roles = Roles(None, None, columns.subject if self.has_subject(self._sources[reference.path]) else None)
            wanted = [name for name in (*roles, *(column for column, _ in self._views)) if name]
            work = partial(self._read, reference, wanted, seen, roles, only)
            without_words(f"reading '{reference.path}' to learn from", work)

    def has_subject(self, source: int) -> bool:
        """Whether a source, by its number, says whose its rows are."""
        return self._spec.columns.subject in self._spec.sources[source].columns

    def _read(
        self,
        reference: Reference,
        wanted: Sequence[str],
        seen: set[str],
        roles: Roles,
        only: Wanted | None,
    ) -> None:
        for block in ahead(read(reference, wanted, WINDOW)):
            self._take(reference, block, seen, roles, only)

    def _take(self, reference: Reference, block: Block, seen: set[str], roles: Roles, only: Wanted | None) -> None:
        path, csv = reference.path, reference.kind in ("csv", "tsv")
        id_, label, subject = roles
        usable: list[tuple[int, str, str, str | None]] = []
        for i, row_id in enumerate(row_ids_of(block, path, id_, "")):
            number = block.first_row + i
            reason = block.unreadable.get(number) or id_problem(row_id) or (_TWICE if row_id in seen else None)
            for column, modality in self._views if reason is None else ():
                reason = reason or content_problem(block.columns[column][i], modality, MAX_CHARS)
            name = None
            if reason is None and label is not None:
                name, reason = label_of(block.columns[label][i])
                reason = _NO_CLASS if name is not None and name not in self._codes else reason
            entity = block.columns[subject][i] if subject else None
            entity = row_id if entity is None or (csv and entity == "") else str(entity)
            if reason is None and not is_unicode(entity):
                reason = f"column '{subject}' is not valid Unicode"
            if reason is None and only is not None and not only(entity, name):
                continue
            if reason is None:
                seen.add(row_id)
                usable.append((i, row_id, entity, name))
            else:
                self.found.set_aside.append((path, number, row_id if id_problem(row_id) is None else None, reason))
        self._add(path, block, usable)

    def _add(self, path: str, block: Block, usable: Sequence[tuple[int, str, str, str | None]]) -> None:
        """The rows whose items all takers can use."""
        items = [[block.columns[column][i] for i, *_ in usable] for column, _ in self._views]
        looks = [taker.look(each) for taker, each in zip(self.found.takers, items, strict=True)]
        good: list[int] = []
        for place, (i, row_id, entity, name) in enumerate(usable):
            said = next(
                (
                    unusable(m, each[place])
                    for each, (_, m) in zip(looks, self._views, strict=True)
                    if isinstance(each[place], str)
                ),
                None,
            )
            number = block.first_row + i
            if said is not None:
                self.found.set_aside.append((path, number, row_id, said))
                continue
            good.append(place)
            contents: list[Item] = [each[place] for each in items]
            self.found.ids.append(row_id)
            self.found.entities.append(entity)
            self.found.labels.append(-1 if name is None else self._codes[name])
            self.found.places.append((self._sources[path], number))
            self.found.digests.append(row_digest(self._key, row_id, entity, name, contents))
        for taker, each, look_ in zip(self.found.takers, items, looks, strict=True):
            taker.add([each[place] for place in good], [look_[place] for place in good])


def named_row(spec: DataSpec, found: Found, row: int, reason: str) -> NamedRow:
    """A usable row with why it is left out all the same."""
    source, number = found.places[row]
    return spec.sources[source].path, number, found.ids[row], reason


def check_unchanged(spec: DataSpec, references: Sequence[Reference]) -> None:
    """Raise JobFailed where a file is gone or is not the one that was planned, by its size and time."""
    wanted = {reference.path for reference in references}
    for source in spec.sources:
        if source.path not in wanted or source.size_bytes is None or source.kind in ("images", "lance"):
            continue
        entry = look(source.path)
        if entry is None or (entry.size_bytes, entry.modified) != (source.size_bytes, source.modified):
            raise JobFailed(
                job=f"reading '{source.path}' to learn from",
                reason="the file is gone" if entry is None else "the file changed since the run was planned",
                advice="Restore it, or start a new run on what there is now.",
            )


def without_words(job: str, work: Callable[[], T]) -> T:
    """What `work` returns. Of an error nobody foresaw its kind and place are said: its own words may quote a row, and Ray writes
    what leaves a worker into its logs."""
    try:
        return work()
    except (MemoryError, OSError, RaystoreError):
        raise
    except _WITH_WORDS as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
    # Raised outside the handler: chained, the other error would travel with this one.
    raise JobFailed(job=job, reason=reason, advice="Check the file, and run the same call again.")
