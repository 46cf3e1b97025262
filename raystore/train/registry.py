"""The heads of a store: numbered versions, aliases that point at one of them, notes beside them.

    heads/<name>/<n>/                    a head, published once
    heads/<name>/notes/<n>/<k>.json      what people wrote about it, one record a note
    aliases/head/<name>@<alias>/<k>.json the number an alias means; the highest record is the present, the lower ones its history

A head and its notes are never edited. Knows neither torch nor Ray. Cost: a listing of folders and a small file a head;
arrays are read by `get` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from raystore.catalog import Catalog, Record
from raystore.errors import HeadCorrupt, HeadNotFound, InvalidArguments
from raystore.layout import check_name, names, numbers, read_json
from raystore.markup import rows_html
from raystore.train.heads import Head, HeadRecord, origin_of
from raystore.train.report.report import Report

if TYPE_CHECKING:
    from raystore.train.export import Format

KIND = "head"  # of alias records
MAX_NOTE_CHARS = 10_000
_COLUMNS = ("head", "aliases", "kind", "task", "score", "snapshot", "encoder", "note")
_SHOWN = 50  # versions in a notebook


class Heads:
    """The heads of one store: `heads["refunds"]` is the newest, `heads["refunds@2"]` a version, `heads["refunds@live"]`
    what an alias means. "live" and "candidate" are the usual aliases."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._layout = catalog.layout

    def names(self) -> list[str]:
        return [name for name in names(self._layout.heads()) if self.numbers(name)]

    def numbers(self, name: str) -> list[int]:
        """The published numbers of one name, lowest first; none where there is no such head."""
        return numbers(self._layout.heads(name))

    def latest(self, name: str) -> Head:
        """The head of that name with the highest number."""
        return self.get(name)

    def get(self, reference: str) -> Head:
        """The head 'refunds@2', the one 'refunds@live' means, or of 'refunds' the one with the highest number.

        Raises:
            HeadNotFound: names the versions and aliases there are. HeadCorrupt: its files are not what was published.
        """
        return Head.load(self._folder(*self.resolve(reference)))

    def resolve(self, reference: str) -> tuple[str, int]:
        """The name and number behind a reference; reads no head. HeadNotFound as `get`."""
        name, at, version = reference.partition("@")
        check_name("a head", name, dashes=True)
        published = self._published(name, reference)
        if not at:
            return name, published[-1]
        number = int(version) if version.isdecimal() else self.aliases(name).get(version, 0)
        if number not in published:
            lost = f"{name}@{number}" if number and not version.isdecimal() else reference
            raise self._not_found(name, lost)
        return name, number

    def record(self, reference: str) -> HeadRecord:
        """What head.json says of it, without its arrays. HeadNotFound, HeadCorrupt."""
        return _record(self._folder(*self.resolve(reference)))

    # --- aliases -----------------------------------------------------------------------------------------------------

    def aliases(self, name: str) -> dict[str, int]:
        """The number each alias of the head means now, by alias. HeadNotFound: there is no such head."""
        self._published(name)
        prefix = f"{name}@"
        found = {
            alias.removeprefix(prefix): self._catalog.alias(KIND, alias)
            for alias in self._catalog.alias_names(KIND)
            if alias.startswith(prefix)
        }
        return {alias: record["number"] for alias, record in found.items() if record and record["number"] is not None}

    def aliases_of(self, reference: str) -> list[str]:
        """The aliases that mean this version now; of a version that is not there, none."""
        name, _, version = reference.partition("@")
        if not self.numbers(name):
            return []
        return [alias for alias, number in self.aliases(name).items() if version == str(number)]

    def set_alias(self, name: str, alias: str, number: int) -> int | None:
        """The number the alias meant before, or None: from now on 'name@alias' is that version.

        What was deployed by the alias stays as it is until it is deployed again. The same number again changes nothing.

        Raises:
            InvalidName: the alias is no name. InvalidArguments: the number is none. HeadNotFound: there is no such version.
        """
        check_name("an alias", alias, dashes=True)
        given: object = number
        if isinstance(given, bool) or not isinstance(given, Integral):
            problem = f"number is {type(given).__name__}, expected a version's number, such as 1"
            raise InvalidArguments(call=f"set_alias('{name}', '{alias}')", problems=[problem])
        if number not in self._published(name):
            raise self._not_found(name, f"{name}@{number}")
        before = self.aliases(name).get(alias)
        if before != number:
            self._catalog.set_alias(KIND, f"{name}@{alias}", {"number": int(number)})
        return before

    def drop_alias(self, name: str, alias: str) -> int:
        """The number the alias meant; it means none from now on, and its history stays. HeadNotFound where it means none."""
        before = self.aliases(name).get(alias)
        if before is None:
            raise self._not_found(name, f"{name}@{alias}")
        self._catalog.set_alias(KIND, f"{name}@{alias}", {"number": None})
        return before

    def alias_history(self, name: str, alias: str) -> list[dict[str, Any]]:
        """What the alias meant and since when, oldest first: `number` (None: it was dropped) and `at` (ISO 8601, UTC).

        Raises:
            HeadNotFound: the head never had such an alias.
        """
        self._published(name)
        label = f"{name}@{alias}"
        if label not in self._catalog.alias_names(KIND):
            raise self._not_found(name, label)
        return [{"number": r["number"], "at": r["published_at"]} for r in _records(self._layout.aliases(KIND, label))]

    # --- notes -------------------------------------------------------------------------------------------------------

    def note(self, reference: str, text: str) -> None:
        """Write a note beside one version; notes are added, never changed.

        Raises:
            InvalidArguments: the text is empty or longer than 10,000 characters. HeadNotFound.
        """
        name, number = self.resolve(reference)
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_NOTE_CHARS:
            problem = f"a note is a text of 1 to {MAX_NOTE_CHARS:,} characters"
            raise InvalidArguments(call=f"note('{reference}')", problems=[problem])
        self._catalog.put(self._layout.head_notes(name, number), {"text": text})

    def notes(self, reference: str) -> list[dict[str, str]]:
        """The notes of one version, oldest first: `text`, and `at` (ISO 8601, UTC)."""
        found = _records(self._layout.head_notes(*self.resolve(reference)))
        return [{"text": record["text"], "at": record["published_at"]} for record in found]

    # --- what there is -----------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Each version of the head, newest first: head, aliases, kind, task, score, snapshot, encoder, note (the last one).

        JSON-ready. `score` is the task's main score in words. A version whose files are damaged has no more than the first
        two, and `note` says what is wrong.
        """
        published, aliases = self._published(name), self.aliases(name)
        return [self._version(name, n, [a for a, number in aliases.items() if number == n]) for n in reversed(published)]

    def export(self, reference: str, target: str | Path, *, format: Format = "numpy") -> Path:
        """The folder that was written, with a predictor that needs no raystore; see `raystore.train.export.export_head`."""
        from raystore.train.export import export_head

        return export_head(self.get(reference), target, format=format)

    def __getitem__(self, reference: str) -> Head:
        return self.get(reference)

    def __iter__(self) -> Iterator[Head]:
        """The latest head of every name."""
        return (self.get(name) for name in self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, reference: object) -> bool:
        name, at, version = reference.partition("@") if isinstance(reference, str) else ("", "", "")
        if name not in self.names():
            return False
        return not at or version in {*map(str, self.numbers(name)), *self.aliases(name)}

    def __repr__(self) -> str:
        found = []
        for name in self.names():
            points = ", ".join(f"{alias}: {number}" for alias, number in self.aliases(name).items())
            found.append(f"{name}@{self.numbers(name)[-1]}" + (f" ({points})" if points else ""))
        return f"Heads({', '.join(found) or 'none'})"

    def _repr_html_(self) -> str:
        labels = [(name, n) for name in self.names() for n in reversed(self.numbers(name))]
        rows: list[dict[str, Any]] = []
        for name in self.names():
            if len(rows) < _SHOWN:
                rows += self.versions(name)
        more = len(labels) - len(rows[:_SHOWN])
        note = f"{more:,} more versions: heads.versions(name) lists them." if more else ""
        return rows_html(rows[:_SHOWN], _COLUMNS, title=f"{len(labels)} heads", note=note)

    def _version(self, name: str, number: int, aliases: list[str]) -> dict[str, Any]:
        label = f"{name}@{number}"
        row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"head": label, "aliases": aliases}
        folder = self._folder(name, number)
        try:
            record, report = _record(folder), _report(folder)
        except HeadCorrupt as error:
            return row | {"note": f"unusable: {error.found}"}
        notes = self.notes(label)
        return row | {
            "kind": record.kind,
            "task": report.task,
            "score": report.headline_text,
            "snapshot": origin_of(record),
            "encoder": record.encoder,
            "note": notes[-1]["text"] if notes else None,
        }

    def _folder(self, name: str, number: int) -> Path:
        return self._layout.heads(name) / str(number)

    def _published(self, name: str, asked: str | None = None) -> list[int]:
        """The numbers of a head that is there."""
        check_name("a head", name, dashes=True)
        published = self.numbers(name)
        if not published:
            where = f"store '{self._layout.root}'"
            raise HeadNotFound(name=(asked or name)[:150], where=where, existing=self.names())
        return published

    def _not_found(self, name: str, asked: str) -> HeadNotFound:
        existing = [f"{name}@{version}" for version in (*self.aliases(name), *reversed(self.numbers(name)))]
        return HeadNotFound(name=asked[:150], where=f"store '{self._layout.root}'", existing=existing)


def _record(folder: Path) -> HeadRecord:
    try:
        return HeadRecord.model_validate_json((folder / "head.json").read_bytes())
    except FileNotFoundError:
        raise HeadCorrupt(path=str(folder), found="head.json is missing") from None
    except ValidationError:
        raise HeadCorrupt(path=str(folder), found="HeadRecord does not parse") from None


def _report(folder: Path) -> Report:
    try:
        return Report.from_json((folder / "report.json").read_bytes())
    except FileNotFoundError:
        raise HeadCorrupt(path=str(folder), found="report.json is missing") from None
    except ValidationError:
        raise HeadCorrupt(path=str(folder), found="Report does not parse") from None


def _records(folder: Path) -> list[Record]:
    """All records of a folder, oldest first."""
    return [read_json(folder / f"{number}.json") for number in numbers(folder)]
