"""What stands on a thing: encoder -> collections, indexes, snapshots, heads, deployments, derived encoders. `lineage.py` looks up.

Reads records alone: no vector, no model, no array. Cost: a small file for each head, snapshot and deployment; of an encoder one look at
which vectors of a collection are null, too (40 ms at 200,000 rows).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.current import current_of
from raystore.data.publish.publish import publications
from raystore.data.snapshots.snapshot import SnapshotRecord, open_snapshot, snapshot_names
from raystore.encoders.records import find_fingerprint, name_of, read_encoder
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import (
    EncoderNotFound,
    HeadCorrupt,
    InvalidArguments,
    ModelUnusable,
    PassportMismatch,
    SnapshotNotFound,
    StoreUnusable,
)
from raystore.index.manifest import newest_number, read_manifest
from raystore.layout import FP12, names, numbers
from raystore.markup import rows_html, shown
from raystore.serve.spec.records import DeploymentRecord, deployment_records
from raystore.train.heads import Head, HeadRecord
from raystore.train.registry import Heads


@dataclass(frozen=True)
class Dependent:
    """One thing, the facts it is listed with, and what stands on it."""

    noun: str
    name: str
    about: dict[str, Any]
    below: list[Dependent] = field(default_factory=list)

    def __str__(self) -> str:
        about = ", ".join(f"{key}: {shown(value)}" for key, value in self.about.items())
        return f"{self.noun} {self.name}" + (f" ({about})" if about else "")

    def lines(self) -> Iterator[str]:
        """The tree under it, itself first."""
        yield str(self)
        for place, child in enumerate(self.below):
            last = place == len(self.below) - 1
            first, *rest = child.lines()
            yield f"{'└─' if last else '├─'} {first}"
            yield from (f"{'  ' if last else '│ '} {line}" for line in rest)

    def facts(self, on: str | None = None) -> Iterator[dict[str, Any]]:
        yield {"noun": self.noun, "name": self.name, "on": on, **self.about}
        for child in self.below:
            yield from child.facts(f"{self.noun} {self.name}")


@dataclass(frozen=True)
class Impact:
    """What stands on `top`. `unreadable` names what was passed over, since its files are damaged."""

    top: Dependent
    unreadable: list[str] = field(default_factory=list)

    @property
    def facts(self) -> list[dict[str, Any]]:
        """All of it, JSON-ready: `noun`, `name`, what it stands `on` (None for the first, which was asked about), its own facts."""
        return list(self.top.facts())

    def __getitem__(self, noun: str) -> list[dict[str, Any]]:
        """What stands on it of one noun: collection, index, publication, snapshot, head, deployment, encoder (derived from it)."""
        return [fact for fact in self.facts[1:] if fact["noun"] == noun]

    def __str__(self) -> str:
        lines = [*self.top.lines(), *(["nothing stands on it"] if not self.top.below else [])]
        return "\n".join([*lines, *(f"could not be read: {what}" for what in self.unreadable)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [
            {"": fact["noun"], "name": fact["name"], "stands on": fact["on"], "facts": [f"{k}: {shown(v)}" for k, v in own]}
            for fact in self.facts[1:]
            for own in [[(k, v) for k, v in fact.items() if k not in ("noun", "name", "on")]]
        ]
        note = f"Could not be read: {', '.join(self.unreadable)}." if self.unreadable else ""
        return rows_html(rows, ("", "name", "stands on", "facts"), title=f"What stands on {self.top}", note=note)


def impact(catalog: Catalog, thing: Any) -> Impact:
    """Everything that stands on an encoder, a snapshot or a head, as a tree.

    On an encoder: the collections with its vectors, their indexes and published vectors, the snapshots that heads on it were
    trained on and those whose SQL calls it, the heads with their aliases, the deployments and published predictions that are
    theirs, and the encoders derived from it, each with its own. Deployments and publications are listed as they are now, and an
    index is the one in use.

    Args:
        thing: an Encoder, a SnapshotRecord, a Head; or the name of an encoder (or its fingerprint), of a head ('refunds',
            'refunds@2', 'refunds@live') or of a snapshot, looked for in this order.

    Raises:
        EncoderNotFound: the name is none of the three; HeadNotFound, SnapshotNotFound: it has no such version.
    """
    down = _Down(catalog)
    if isinstance(thing, Encoder):
        top = down.encoder(thing.fingerprint)
    elif isinstance(thing, Head):
        top = down.head(thing.label)
    elif isinstance(thing, SnapshotRecord):
        top = down.snapshot(thing)
    elif isinstance(thing, str):
        top = down.named(thing)
    else:
        problem = f"nothing stands on {type(thing).__name__}, expected an encoder, a snapshot, a head, or a name"
        raise InvalidArguments(call="impact", problems=[problem])
    return Impact(top, down.unreadable)


class _Down:
    """One walk down: records are read once, what cannot be read is noted."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._layout = catalog.layout
        self._heads = Heads(catalog)
        self.unreadable: list[str] = []
        self._records: dict[str, HeadRecord] = {}
        for label in (f"{name}@{n}" for name in self._heads.names() for n in self._heads.numbers(name)):
            try:
                self._records[label] = self._heads.record(label)
            except HeadCorrupt:
                self.unreadable.append(f"head {label}")
        self._deployed = deployment_records(catalog)
        self._publications = [p for name in collection_names(self._layout) for p in publications(catalog, name)]
        self._derived: dict[str, list[str]] = {}
        for folder in names(self._layout.encoders()):
            try:
                fingerprint = find_fingerprint(catalog, folder)
                base = read_encoder(self._layout, fingerprint).card.derived_from
            except (EncoderNotFound, ModelUnusable):
                self.unreadable.append(f"encoder {folder}")
                continue
            if base is not None:
                self._derived.setdefault(base, []).append(fingerprint)

    def named(self, reference: str) -> Dependent:
        name = reference.partition("@")[0]
        try:
            return self.encoder(find_fingerprint(self._catalog, reference))
        except EncoderNotFound:
            if name in self._heads.names():
                return self.head("{}@{}".format(*self._heads.resolve(reference)))
            if name in snapshot_names(self._catalog):
                return self.snapshot(open_snapshot(self._catalog, reference))
            if name in collection_names(self._layout):
                problem = f"'{reference[:150]}' is a collection: what stands on it is asked of its encoder, its snapshots or heads"
                raise InvalidArguments(call="impact", problems=[problem]) from None
            named = [*Encoders(self._catalog).names(), *self._heads.names(), *snapshot_names(self._catalog)]
            existing = list(dict.fromkeys(named))
            raise EncoderNotFound(
                name=reference[:150], where="the encoders, heads and snapshots", existing=existing
            ) from None

    def encoder(self, fingerprint: str, above: tuple[str, ...] = ()) -> Dependent:
        label = f"{name_of(self._catalog, fingerprint)}@{fingerprint[:FP12]}"
        own = {name: record for name, record in self._records.items() if record.fingerprint == fingerprint}
        snapshots: dict[str, tuple[SnapshotRecord, list[str]]] = {}
        loose = []
        for name, record in own.items():
            if record.voters is not None:
                if record.voters.collection not in collection_names(self._layout):
                    loose.append(name)
                continue
            try:
                found = open_snapshot(self._catalog, f"{record.snapshot['name']}@{record.snapshot['number']}")
            except SnapshotNotFound:
                loose.append(name)
                continue
            snapshots.setdefault(_label(found), (found, []))[1].append(name)
        pinned = {_label(found): found for found in self._calling(fingerprint)}
        for label, found in pinned.items():
            snapshots.setdefault(label, (found, []))
        below = []
        for name in collection_names(self._layout):
            table = CollectionTable.open(self._layout, name)
            trained = [snapshots.pop(label) for label in list(snapshots) if snapshots[label][0].collection == name]
            trained.sort(key=lambda one: (one[0].name, one[0].number))
            if trained or fingerprint in table.fingerprints:
                below.append(self._collection(table, fingerprint, trained, pinned))
        loose += [name for _, trained_on in snapshots.values() for name in trained_on]  # of collections that are gone
        below += [self.head(name) for name in loose]
        derived = [other for other in self._derived.get(fingerprint, []) if other not in above]
        below += [self.encoder(other, (*above, fingerprint)) for other in derived]
        passport = Encoders(self._catalog).resolve(fingerprint)
        about = {"fingerprint": fingerprint, "class": passport.equivalence}
        return Dependent("encoder", label, about, below)

    def _calling(self, fingerprint: str) -> Iterator[SnapshotRecord]:
        """The snapshots whose SQL calls the encoder, so that all of their heads stand on it."""
        for name in snapshot_names(self._catalog):
            for number in numbers(self._layout.snapshots(name)):
                try:
                    found = open_snapshot(self._catalog, f"{name}@{number}")
                except json.JSONDecodeError:
                    self.unreadable.append(f"snapshot {name}@{number}")
                    continue
                if fingerprint in found.encoders.values():
                    yield found

    def snapshot(self, record: SnapshotRecord, only: list[str] | None = None, *, calls: bool = False) -> Dependent:
        trained = only if only is not None else [n for n, head in self._records.items() if _is_of(head, record)]
        about: dict[str, Any] = {"rows": sum(record.spec["counts"].values()), "hash": record.hash[:FP12]}
        if calls:
            about["uses it"] = "in its SQL"
        return Dependent("snapshot", _label(record), about, [self.head(name) for name in trained])

    def head(self, label: str) -> Dependent:
        record = self._records.get(label)
        about: dict[str, Any] = {}
        if aliases := self._heads.aliases_of(label):
            about["aliases"] = ", ".join(aliases)
        if record is not None:
            about |= {"kind": record.kind, "encoder": record.encoder}
        below = [
            _deployment_of(record, label)
            for record in self._deployed.values()
            if any(each.head == label for each in record.heads)
        ]
        told = [p for p in self._publications if label in p.predictions.values()]
        below += [Dependent("publication", p.uri, {"of": p.collection, "holds": "predictions"}) for p in told]
        return Dependent("head", label, about, below)

    def _collection(
        self,
        table: CollectionTable,
        fingerprint: str,
        trained: list[tuple[SnapshotRecord, list[str]]],
        calling: Mapping[str, SnapshotRecord],
    ) -> Dependent:
        about: dict[str, Any] = {}
        if fingerprint in table.fingerprints:
            rows = table.count()
            about = {"rows": rows, "with a vector": rows - table.count_lacking(fingerprint)}
            current = current_of(self._catalog, table)
            if current is not None and current.fingerprint == fingerprint:
                about["current"] = f"since {current.at}"
        told = [p for p in self._publications if (p.collection, p.fingerprint) == (table.name, fingerprint)]
        below = [
            *self._index(table.name, fingerprint),
            *(Dependent("publication", p.uri, {"holds": "vectors"}) for p in told),
            *(
                self.snapshot(record, calls=True) if _label(record) in calling else self.snapshot(record, names)
                for record, names in trained
            ),
            *(self.head(name) for name, record in self._records.items() if _asks(record, table.name, fingerprint)),
        ]
        return Dependent("collection", table.name, about, below)

    def _index(self, collection: str, fingerprint: str) -> list[Dependent]:
        number = newest_number(self._layout, collection, fingerprint)
        if number is None:
            return []
        name = f"{collection}@{number}"
        try:
            found = read_manifest(self._layout, collection, fingerprint, number)
        except PassportMismatch:  # of an encoder whose fingerprint begins alike
            return []
        except StoreUnusable:
            self.unreadable.append(f"index {name}")
            return []
        return [Dependent("index", name, {"rows": found.rows, "kind": found.kind, "version": found.version})]


def _label(record: SnapshotRecord) -> str:
    return f"{record.name}@{record.number}"


def _asks(head: HeadRecord, collection: str, fingerprint: str) -> bool:
    """Whether the head counts the votes of that collection's rows."""
    return head.fingerprint == fingerprint and head.voters is not None and head.voters.collection == collection


def _is_of(head: HeadRecord, snapshot: SnapshotRecord) -> bool:
    return (head.snapshot.get("name"), head.snapshot.get("number")) == (snapshot.name, snapshot.number)


def _deployment_of(record: DeploymentRecord, head: str) -> Dependent:
    about: dict[str, Any] = {"log": record.log.collection} if record.log else {}
    if record.head != head:
        about["as"] = "canary" if record.canary and record.canary.head == head else "shadow"
    return Dependent("deployment", f"{record.name}@{record.number}", about)
