"""What each of the five ways to another encoder would cover, take and cost, before anything is done.

    kept      re-embed from the content that the collection keeps
    files     re-embed from the files that it was embedded from
    dual      every new row gets vectors of both; old rows stay as they are
    bridge    old rows are mapped into the new space, where their content is gone
    through   nothing is written: queries of the new encoder are mapped into the old space

The pace of re-embedding is measured on a few real items, or taken from the newest job that embedded with that encoder; that of
writing vectors, on some of the collection's own. Cost: the encoder's load, then a second or two. Writes nothing that stays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.current import default_first
from raystore.data.fill import sources_of
from raystore.data.kept_source import open_source
from raystore.data.manifest import JobRecord, read_jobs
from raystore.encoders.bridged import Bridge, Direction, is_bridged, read_bridge
from raystore.encoders.plan import said_bytes, said_time
from raystore.encoders.records import KIND, find_fingerprint
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import EncoderNotFound, InvalidArguments, ModelUnusable
from raystore.layout import names
from raystore.markup import cells_html
from raystore.migrate.bridge.fidelity import Measured
from raystore.migrate.bridge.fit import LEAST_PAIRS
from raystore.migrate.bridge.pairs import count_pairs
from raystore.migrate.pace import Pace, state_of, writes_per_s

WayName = Literal["kept", "files", "dual", "bridge", "through"]


@dataclass(frozen=True)
class Way:
    """One way. `rows` that lack a vector of the new encoder and would get one, or be reached; `seconds` None where nothing
    tells; `bytes` of new vectors; `note` says why it cannot be, or what to know of it."""

    name: WayName
    possible: bool
    rows: int
    seconds: float | None
    bytes: int
    note: str
    measured: Measured | None = None  # of a bridge that is built


@dataclass(frozen=True)
class MigrationPlan:
    """The five ways from `old` to `new` (labels) for one collection. `lacking` of its `rows` have no vector of the new one."""

    collection: str
    old: str
    new: str
    rows: int
    lacking: int
    pairs: int
    ways: tuple[Way, ...]
    recommendation: str

    def __getitem__(self, name: str) -> Way:
        return next(way for way in self.ways if way.name == name)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def table(self) -> list[dict[str, str]]:
        """A row of words for each way."""
        return [
            {
                "way": way.name,
                "possible": "yes" if way.possible else "no",
                "rows": f"{way.rows:,}",
                "time": "" if way.seconds is None or not way.possible else said_time(way.seconds),
                "disk": said_bytes(way.bytes) if way.possible else "",
                "": way.note,
            }
            for way in self.ways
        ]

    @property
    def title(self) -> str:
        return (
            f"{self.collection}: from {self.old} to {self.new}; {self.lacking:,} of {self.rows:,} rows lack a vector of it"
        )

    def __str__(self) -> str:
        listed = [{name: name for name in self.table[0]}, *self.table]
        widths = {name: max(len(row[name]) for row in listed) for name in listed[0]}
        lines = ["  " + "  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip() for row in listed]
        return "\n".join([self.title, *lines, self.recommendation])

    def _repr_html_(self) -> str:
        rows = [list(row.values()) for row in self.table]
        return cells_html(
            list(self.table[0]), rows, title=self.title, note=self.recommendation, right=["rows", "time", "disk"]
        )


def old_of(catalog: Catalog, table: CollectionTable, new: Encoder, call: str) -> Encoder:
    """The encoder that is left: the collection's current one, or the first other that is no bridge.

    Raises:
        InvalidArguments: there is none.
    """
    encoders = Encoders(catalog)
    for fingerprint in default_first(catalog, table):
        found = encoders.get(fingerprint)
        if fingerprint != new.fingerprint and not is_bridged(found.passport):
            return found
    problem = f"'{table.name}' has no encoder but {new.label}, so there is nothing to move from"
    raise InvalidArguments(call=call, problems=[problem])


def find_bridge(catalog: Catalog, source: str, target: str, direction: Direction) -> tuple[Encoder, Bridge] | None:
    """The registered bridge between two encoders in this direction, or None: of those that a name means now the one that was fitted on
    the most pairs, then the one named last; else of those that lost their name to another."""
    found: list[tuple[tuple[bool, int, str], Encoder, Bridge]] = []
    encoders = Encoders(catalog)
    for folder in names(catalog.layout.encoders()):
        try:
            encoder = encoders.get(find_fingerprint(catalog, folder))
            if not is_bridged(encoder.passport):
                continue
            bridge = read_bridge(catalog.layout, encoder.fingerprint, encoder.label)
        except (EncoderNotFound, ModelUnusable):  # damaged: it cannot be used, the others can
            continue
        if (bridge.direction, bridge.source, bridge.target) == (direction, source, target):
            record = catalog.alias(KIND, encoder.name)
            at = "" if record is None else str(record["published_at"])
            found.append(((bool(at), int(bridge.facts.get("pairs", 0)), at), encoder, bridge))
    return max(found, key=lambda each: each[0])[1:] if found else None


def plan_migration(catalog: Catalog, table: CollectionTable, new: Encoder) -> MigrationPlan:
    """The plan of `Collection.plan_migration`.

    Raises:
        InvalidArguments: the encoder is a bridge, or the collection has no other. ModelUnusable, GoldenMoved.
    """
    call = f"plan_migration of '{table.name}'"
    if is_bridged(new.passport):
        problems = [f"{new.label} is a bridge: name the encoder that it leads to, and the way 'bridge'"]
        raise InvalidArguments(call=call, problems=problems)
    old = old_of(catalog, table, new, call)
    rows = table.count()
    has = new.fingerprint in table.fingerprints
    lacking = table.count_lacking(new.fingerprint) if has else rows
    pairs = count_pairs(table, old.fingerprint, new.fingerprint) if has else 0
    jobs = read_jobs(catalog.layout, table.name)
    size = 4 * new.dim
    pace = Pace(table, new, jobs)
    ways = (
        _kept(table, lacking, size, pace),
        _files(table, jobs, lacking, size, pace),
        Way("dual", True, 0, 0.0, 0, f"from now on; {size:,} bytes for each new row, and one more encoding"),
        _bridge(catalog, table, old, new, rows, pairs, size),
        _through(catalog, old, new, rows, lacking, pairs),
    )
    return MigrationPlan(table.name, old.label, new.label, rows, lacking, pairs, ways, _advice(ways, lacking, pairs))


def _kept(table: CollectionTable, lacking: int, size: int, pace: Pace) -> Way:
    if not table.keeps_source:
        return Way("kept", False, 0, None, 0, "the collection keeps no content (keep_source=True keeps it)")
    source = open_source(table)
    rows = min(lacking, int(source.table.dataset().count_rows()) if source else 0)
    return Way("kept", rows > 0 or not lacking, rows, pace.seconds(rows), rows * size, pace.said)


def _files(table: CollectionTable, jobs: list[JobRecord], lacking: int, size: int, pace: Pace) -> Way:
    if table.keeps_source:
        return Way("files", False, 0, None, 0, "the collection keeps its content, which is read in the place of any file")
    if not sources_of(jobs):
        return Way("files", False, 0, None, 0, "no file was embedded into it: its rows were logged")
    state = state_of(jobs, pace.encoder)
    rows = min(lacking, state["rows"])
    told = ", ".join(f"{state[what]:,} {what}" for what in ("there", "changed", "gone", "other") if state[what])
    note = f"files: {told}" + ("" if not pace.said else f"; {pace.said}")
    return Way("files", rows > 0, rows, pace.seconds(rows), rows * size, note)


def _bridge(catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder, rows: int, pairs: int, size: int) -> Way:
    found = find_bridge(catalog, old.fingerprint, new.fingerprint, "forward")
    if found is None and pairs < LEAST_PAIRS:
        note = f"{pairs:,} rows have both vectors, {LEAST_PAIRS} are needed: dual-write, or re-embed some, first"
        return Way("bridge", False, 0, None, 0, note)
    with_old = rows - table.count_lacking(old.fingerprint)
    if found is not None:
        encoder, bridge = found
        filled = encoder.fingerprint in table.fingerprints
        with_old = table.count_lacking(encoder.fingerprint) if filled else with_old
        note = f"{encoder.label} {_said(bridge, rows)}"
    else:
        note = f"{pairs:,} pairs to fit it on, which takes seconds to minutes more; its fidelity is then measured"
    seconds = with_old / writes_per_s(table, old, new.dim)
    return Way("bridge", True, with_old, seconds, with_old * size, note, measured_of(found[1], rows) if found else None)


def _through(catalog: Catalog, old: Encoder, new: Encoder, rows: int, lacking: int, pairs: int) -> Way:
    found = find_bridge(catalog, new.fingerprint, old.fingerprint, "back")
    if found is not None:
        return Way("through", True, lacking, 0.0, 0, f"search(through='{found[0].name}') {_said(found[1], rows)}")
    if pairs < LEAST_PAIRS:
        return Way(
            "through", False, 0, None, 0, f"{pairs:,} rows have both vectors, {LEAST_PAIRS} are needed for a bridge back"
        )
    return Way("through", True, lacking, 0.0, 0, f"{pairs:,} pairs to fit the bridge back on; then at once")


def measured_of(bridge: Bridge, rows: int) -> Measured:
    """What was measured of the bridge when it was built, for a collection of so many rows now."""
    facts = bridge.facts.get("fidelity") or {}
    return Measured(
        float(facts.get("recall", 0.0)), facts.get("kept"), facts.get("gallery", 0), facts.get("falls", 0.0), rows
    )


def _said(bridge: Bridge, rows: int) -> str:
    measured = measured_of(bridge, rows)
    said = f"was measured: {measured} ({bridge.facts.get('pairs', 0):,} pairs)"
    return said if measured.good else f"{said}, {measured.short}: re-embed where you can"


def _advice(ways: tuple[Way, ...], lacking: int, pairs: int) -> str:
    by_name = {way.name: way for way in ways}
    if not lacking:
        return "Every row has its vector already: compare_encoders, then use_encoder cuts over."
    for name in ("kept", "files"):
        way = by_name[name]
        if way.possible and way.rows >= lacking:
            return f"Re-embed ({name}): it reaches every row with a true vector, in about {said_time(way.seconds or 0)}."
    first = next((by_name[name] for name in ("kept", "files") if by_name[name].possible), None)
    measured = by_name["bridge"].measured
    if measured is not None and not measured.usable:
        begun = f"Re-embed ({first.name}) the {first.rows:,} rows that can be, and write" if first is not None else "Write"
        return f"{begun} both from now on: the bridge was measured at {measured}, {measured.short}."
    if by_name["bridge"].possible or (first is not None and pairs + first.rows >= LEAST_PAIRS):
        bridge = "bridge the rows whose content is gone, and write both from now on."
        begun = f"Re-embed ({first.name}) the {first.rows:,} rows that can be; then " if first is not None else ""
        return f"{begun}{bridge}" if begun else bridge.capitalize()
    return f"Write both from now on (dual); when {LEAST_PAIRS} rows have both vectors, bridge the old rows."
