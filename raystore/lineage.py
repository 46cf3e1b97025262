"""Where a thing comes from: prediction -> deployment -> head -> snapshot -> SQL and versions -> encoder. `impact.py` looks down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.current import current_of
from raystore.data.snapshots.snapshot import SnapshotRecord, open_snapshot, snapshot_names
from raystore.data.snapshots.split import SIDES
from raystore.encoders.records import name_of
from raystore.encoders.registry import Encoders
from raystore.errors import DeploymentNotFound, InvalidArguments
from raystore.layout import FP12
from raystore.markup import rows_html
from raystore.serve.spec.records import deployment_records
from raystore.train.classify.voters import Voters
from raystore.train.heads import Head
from raystore.train.registry import Heads


@dataclass(frozen=True)
class Lineage:
    """The chain, nearest first: `facts[0]` is what was asked about. Each link has `noun`, `name`, and its own facts."""

    facts: list[dict[str, Any]]

    def __getitem__(self, noun: str) -> dict[str, Any]:
        """The link of that noun: deployment, head, snapshot, collection or encoder."""
        return next(link for link in self.facts if link["noun"] == noun)

    def __str__(self) -> str:
        lines = []
        for depth, link in enumerate(self.facts):
            lines.append(f"{'   ' * (depth - 1)}{'└─ ' if depth else ''}{link['noun']} {link['name']}")
            lines += [f"{'   ' * depth}   {key}: {' '.join(str(value).split())}" for key, value in _about(link).items()]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows: list[dict[str, Any]] = []
        for link in self.facts:
            rows.append({"": link["noun"], "name": link["name"]})
            rows += [{"fact": key, "value": value} for key, value in _about(link).items()]
        return rows_html(rows, ("", "name", "fact", "value"), title=f"Lineage of {_named_link(self.facts[0])}")


def _named_link(link: Mapping[str, Any]) -> str:
    return f"{link['noun']} {link['name']}"


def _about(link: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in link.items() if key not in ("noun", "name")}


def trace(catalog: Catalog, thing: Any) -> Lineage:
    """See `Store.lineage`."""
    if isinstance(thing, Mapping):
        return Lineage(_prediction(catalog, thing))
    if isinstance(thing, Head):
        return Lineage(_head(catalog, thing))
    if isinstance(thing, SnapshotRecord):
        return Lineage(_snapshot(catalog, thing))
    if isinstance(thing, str):
        return Lineage(_named(catalog, thing))
    problem = f"{type(thing).__name__} has no lineage, expected a prediction, a head, a snapshot, or a name"
    raise InvalidArguments(call="lineage", problems=[problem])


def _prediction(catalog: Catalog, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    named = answer.get("lineage")
    if not isinstance(named, Mapping) or not {"deployment", "head", "number"} <= named.keys():
        problem = "the mapping is no /v1/predict answer: its 'lineage' names no deployment, head and number"
        raise InvalidArguments(call="lineage", problems=[problem])
    return _deployment(catalog, named["deployment"], named)


def _named(catalog: Catalog, reference: str) -> list[dict[str, Any]]:
    name = reference.partition("@")[0]
    heads = Heads(catalog)
    if reference in deployment_records(catalog):
        return _deployment(catalog, reference, None)
    if name in heads.names():
        return _head(catalog, heads.get(reference))
    if name in snapshot_names(catalog):
        return _snapshot(catalog, open_snapshot(catalog, reference))
    existing = [*deployment_records(catalog), *heads.names(), *snapshot_names(catalog)]
    raise DeploymentNotFound(name=reference, where="the deployments, heads and snapshots", existing=existing)


def _deployment(catalog: Catalog, name: str, answer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The deployment as a prediction names it, or as it is now."""
    if answer is not None:
        head, number = answer["head"], answer["number"]
    else:
        record = deployment_records(catalog)[name]
        head, number = record.head, record.number
    return [{"noun": "deployment", "name": f"{name}@{number}"}, *_head(catalog, Heads(catalog).get(head))]


def _head(catalog: Catalog, head: Head) -> list[dict[str, Any]]:
    score, value = head.report.headline
    link: dict[str, Any] = {"noun": "head", "name": head.label, "kind": head.kind}
    if head.report.rows:
        link[score] = round(value, 4)
    if aliases := Heads(catalog).aliases_of(head.label):
        link["aliases"] = ", ".join(aliases)
    passport = Encoders(catalog).resolve(head.fingerprint)
    encoder = {"noun": "encoder", "name": head.encoder, "fingerprint": head.fingerprint, "model": passport.architecture}
    if head.voters is not None:
        return [link, _voters(head.voters) | _asked_by(catalog, head.voters.collection), encoder]
    snapshot = open_snapshot(catalog, f"{head.snapshot['name']}@{head.snapshot['number']}")
    return [link, *_snapshot(catalog, snapshot), encoder]


def _voters(voters: Voters) -> dict[str, Any]:
    """The collection whose rows are asked, as they are now."""
    told = {"labels": voters.labels, "descriptions": len(voters.described) or None, "neighbours": voters.k}
    return {"noun": "collection", "name": voters.collection} | {name: fact for name, fact in told.items() if fact}


def _asked_by(catalog: Catalog, collection: str) -> dict[str, Any]:
    """The encoder that `use_encoder` made the collection's current one, since when and why; nothing where none was chosen."""
    if collection not in collection_names(catalog.layout):
        return {}
    current = current_of(catalog, CollectionTable.open(catalog.layout, collection))
    if current is None:
        return {}
    label = f"{name_of(catalog, current.fingerprint)}@{current.fingerprint[:FP12]}"
    told = {"current encoder": label, "since": current.at, "reason": current.reason}
    return {name: fact for name, fact in told.items() if fact}


def _snapshot(catalog: Catalog, record: SnapshotRecord) -> list[dict[str, Any]]:
    link = {
        "noun": "snapshot",
        "name": f"{record.name}@{record.number}",
        "hash": record.hash[:FP12],
        "rows": sum(record.spec["counts"].values()),
        "versions": ", ".join(f"{name} version {number}" for name, number in record.spec["versions"].items()),
    }
    if record.encoders:  # that its SQL calls
        link["encoders"] = ", ".join(f"{name}@{fingerprint[:FP12]}" for name, fingerprint in record.encoders.items())
    collection = {"noun": "collection", "name": record.collection, **_asked_by(catalog, record.collection)}
    return [{**link, "sql": record.spec["sql"], **_rules(record.spec)}, collection]


def _rules(spec: Mapping[str, Any]) -> dict[str, str]:
    """How rows became labels, features and sides, and as of when; what was not asked for is left out."""
    named, rule, split = spec["label"].get("named"), spec["label"]["rule"], spec["split"]
    sides = [f"by {split['by']}" + (f" of {split['column']}" if "column" in split else "")]
    fractions = split.get("fractions") or {}
    sides += [f"{side} {fractions[side]:g}" for side in SIDES if side in fractions]
    sides += [f"{side} from {split[side]}" for side in SIDES if side in split]
    told = {
        "label": f"{named}: {rule}" if named else rule,
        "features": ", ".join(f"{name} from {source}" for name, source in spec["features"].items()),
        "split": ", ".join(sides),
        "as_of": spec["as_of"] if spec["as_of_given"] else None,
    }
    return {key: value for key, value in told.items() if value}
