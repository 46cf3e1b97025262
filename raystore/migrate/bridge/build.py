"""Builds both directions of a bridge from a collection's pairs, and registers each as an encoder of its own.

Cost: reading the pairs (20 ms a 1,000), then the fits (fit.py). No model is loaded and no content is read: the golden vectors of
both are made from the new encoder's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.encoders.bridged import Direction, is_bridged, publish_bridge
from raystore.encoders.records import KIND, check_encoder_name
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.markup import cells_html
from raystore.migrate.bridge.fidelity import MOST_US, Fidelity
from raystore.migrate.bridge.fit import Fitted, check_kinds, fit_direction
from raystore.migrate.bridge.pairs import read_pairs
from raystore.progress import Progress

PAIRS = 20_000
_COLUMNS = (
    "direction",
    "map",
    "pairs",
    "held out",
    "recall@10",
    "95%",
    "label searches keep",
    "cosine",
    "its 5%",
    "us a query",
)


@dataclass(frozen=True)
class Bridged:
    """Two encoders between `old` and `new` (labels), and what each kind of map reached; the chosen ones are those of `fidelity`
    and `back_fidelity`."""

    old: str
    new: str
    collection: str
    forward: Encoder
    back: Encoder
    fidelity: Fidelity
    back_fidelity: Fidelity
    forward_tried: tuple[Fidelity, ...]
    back_tried: tuple[Fidelity, ...]

    @property
    def advice(self) -> str | None:
        """A sentence that says to re-embed, where a direction's recall@10 is below 90%; the forward one's first."""
        return self.fidelity.advice or self.back_fidelity.advice

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready; of each kind that was tried, whether it was chosen."""
        chosen = (self.fidelity, self.back_fidelity)
        tried = [{**each.facts, "chosen": each in chosen} for each in (*self.forward_tried, *self.back_tried)]
        named = {"collection": self.collection, "old": self.old, "new": self.new}
        return {**named, "forward": self.forward.label, "back": self.back.label, "tried": tried, "advice": self.advice}

    def __str__(self) -> str:
        lines = [
            f"{self.forward.label} takes {self.old} into the space of {self.new}, and {self.back.label} back; "
            f"fitted on {self.fidelity.pairs:,} pairs of '{self.collection}'"
        ]
        for each in (*self.forward_tried, *self.back_tried):
            mark = "*" if each in (self.fidelity, self.back_fidelity) else " "
            kept = "" if each.kept is None else f", label searches keep {each.kept:.1%}"
            kept += f", about {each.measured.expected:.0%} among all {each.rows:,}" if each.gallery < each.rows else ""
            slow = f", above {MOST_US:.0f}: too slow for queries" if each.too_slow else ""
            lines.append(
                f" {mark} {each.direction:<8} {each.kind:<11} recall@10 {each.recall:.1%} ({each.low:.1%} to {each.high:.1%}, "
                f"{each.n:,} held-out pairs among {each.gallery:,}){kept}; cosine {each.cosine:.3f}, 5% below {each.cosine_5:.3f}, "
                f"{each.us:.0f} us a query{slow}"
            )
        lines += [said for said in (self.fidelity.advice, self.back_fidelity.advice) if said]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            (
                each.direction, f"{each.kind}{' (chosen)' if each in (self.fidelity, self.back_fidelity) else ''}",
                f"{each.pairs:,}", f"{each.n:,} of {each.gallery:,}", f"{each.recall:.1%}", f"{each.low:.1%} to {each.high:.1%}",
                None if each.kept is None else f"{each.kept:.1%}", f"{each.cosine:.3f}", f"{each.cosine_5:.3f}",
                f"{each.us:.0f}",
            )
            for each in (*self.forward_tried, *self.back_tried)
        ]  # fmt: skip
        title = f"{self.forward.label} and {self.back.label}, between {self.old} and {self.new}"
        advice = f". {self.advice}" if self.advice else ""
        return cells_html(_COLUMNS, rows, title=title + advice)


def build_bridge(
    catalog: Catalog,
    table: CollectionTable,
    name: str,
    old: Encoder,
    new: Encoder,
    *,
    back: str | None = None,
    pairs: int = PAIRS,
    kinds: Sequence[str] | None = None,
    labels: str | Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bridged:
    """Both directions, registered under `name` (old -> new) and `back` (new -> old); the best kind of map each, by held-out pairs.

    The same pairs again give the same maps, and nothing changes. More pairs give other maps, which are other encoders: the names
    mean those from then on, and what was filled under the old ones stays under their fingerprints.

    Args:
        table: the collection whose rows with a vector of both encoders are the pairs.
        back: the name of the other direction; None is '<name>-back'.
        pairs: drawn at random, at most.
        kinds: of "procrustes", "low-rank" and "mlp"; None tries all, the last from 1,000 pairs.
        labels: a kept column or {id: label}; then what label searches keep of re-embedding's is measured too, and judged by.
        progress: called with the maps fitted so far, and those in all.

    Raises:
        InvalidArguments: too few pairs, names that cannot be, an encoder that is itself a bridge; all are named.
        PassportMismatch: the collection lacks one of the encoders. ColumnNotFound, InvalidName.
    """
    call = f"build_bridge '{name}'"
    back_name = f"{name}-back" if back is None else back
    for each in (name, back_name):
        check_encoder_name(each)
    _check(call, name, back_name, old, new, pairs)
    found = read_pairs(table, old.fingerprint, new.fingerprint, pairs, labels=labels, seed=seed)
    rows = table.count()
    in_all, done = 2 * len(check_kinds(kinds, len(found))), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, in_all)

    fitted = {
        direction: fit_direction(direction, found, kinds=kinds, rows=rows, seed=seed, advance=advance)
        for direction in _DIRECTIONS
    }
    named = {"forward": name, "back": back_name}
    encoders = {d: _register(catalog, named[d], d, fitted[d], old, new, table.name, seed) for d in _DIRECTIONS}
    return Bridged(
        old=old.label,
        new=new.label,
        collection=table.name,
        forward=encoders["forward"],
        back=encoders["back"],
        fidelity=fitted["forward"].fidelity,
        back_fidelity=fitted["back"].fidelity,
        forward_tried=fitted["forward"].tried,
        back_tried=fitted["back"].tried,
    )


_DIRECTIONS: tuple[Direction, ...] = ("forward", "back")


def _check(call: str, name: str, back: str, old: Encoder, new: Encoder, pairs: object) -> None:
    problems = [f"{each.label} is itself a bridge between two encoders" for each in (old, new) if is_bridged(each.passport)]
    if old.fingerprint == new.fingerprint:
        problems.append(f"{old.label} and {new.label} are one encoder, whose vectors may be compared as they are")
    if name == back:
        problems.append("both directions have one name, and they are two encoders")
    problems += [
        f"'{each}' is the name of {whose.label}: a bridge is an encoder of its own and needs another"
        for each in dict.fromkeys((name, back))
        for whose in dict.fromkeys((old, new))
        if each == whose.name
    ]
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1:
        problems.append("pairs= is a whole number from 1")
    if problems:
        raise InvalidArguments(call=call, problems=problems)


def _register(
    catalog: Catalog,
    name: str,
    direction: Direction,
    fitted: Fitted,
    old: Encoder,
    new: Encoder,
    collection: str,
    seed: int,
) -> Encoder:
    facts: dict[str, Any] = {
        "pairs": fitted.fidelity.pairs,
        "seed": seed,
        "collection": collection,
        "fidelity": fitted.fidelity.facts,
        "tried": [each.facts for each in fitted.tried],
    }
    passport = publish_bridge(catalog.layout, old.passport, new.passport, fitted.map, direction, facts, new.card)
    record = catalog.alias(KIND, name)
    if record is None or record.get("fingerprint") != passport.fingerprint:
        catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint})
    return Encoder(catalog, passport, name)
