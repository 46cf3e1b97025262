"""Does a migration: each step is one that may be killed and called again, and the report says what was done.

    kept, files   add_encoder: the column, then vectors from content; new rows get both from that moment on, and those of requests and
                  jobs that had begun before it are filled by one more round
    dual          the column alone
    bridge        the column, the map fitted where there is none yet or many more pairs than it knew, then old rows through it into
                  the bridge's own column
    through       the maps alone
    auto          kept or files, then a bridge for the rows that are left, if recall@10 is 90% or label searches keep 90%

A cut-over is one record, made at the end and only if every row can be found by then; where the old encoder has an index, the new one
gets one like it before. Knows no CLI and no Ray of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.current import cut_over as make_current
from raystore.data.fill import add_encoder, write_both
from raystore.data.manifest import read_jobs
from raystore.data.pool_size import Workers
from raystore.encoders.bridged import Bridge, Direction, is_bridged, read_bridge
from raystore.encoders.registry import Encoder
from raystore.encoders.vector_map import MapKind
from raystore.errors import InvalidArguments
from raystore.markup import facts_html
from raystore.migrate.bridge import bridge_rows, build_bridge
from raystore.migrate.bridge.build import PAIRS
from raystore.migrate.bridge.fidelity import Measured
from raystore.migrate.bridge.fit import LEAST_PAIRS
from raystore.migrate.bridge.pairs import count_pairs, read_pairs
from raystore.migrate.indexing import index_like, missing_index
from raystore.migrate.plan import find_bridge, measured_of, old_of
from raystore.progress import Progress

MigrationWay = Literal["auto", "kept", "files", "dual", "bridge", "through"]
_ROUNDS = 5
LINEAR: tuple[MapKind, ...] = ("procrustes", "low-rank")
Shown = Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class MigrationReport:
    """What was done, a sentence a step. `left` rows have no vector of `serves`, the encoder that the collection can be asked by
    after it (the new one, or the forward bridge); `through` is the bridge by which new queries find old rows."""

    collection: str
    old: str
    new: str
    way: MigrationWay
    steps: tuple[str, ...]
    serves: str
    left: int
    through: str | None
    cut_over: bool
    advice: str | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.collection}: from {self.old} to {self.new}, {self.seconds:.1f} s"
        return "\n".join([head, *(f"  {step}" for step in self.steps), *([self.advice] if self.advice else [])])

    def _repr_html_(self) -> str:
        facts = {f"step {n}": step for n, step in enumerate(self.steps, 1)}
        return facts_html(f"{self.collection}: from {self.old} to {self.new}", facts, self.advice or "")


def migrate(
    catalog: Catalog,
    table: CollectionTable,
    new: Encoder,
    store_key: bytes,
    *,
    way: MigrationWay = "auto",
    cut_over: bool = False,
    workers: Workers = None,
    shown: Shown = lambda _: nullcontext(None),
) -> MigrationReport:
    """The work of `Collection.migrate`; `shown` gives each step its progress, by its title."""
    call = f"migrate '{table.name}' to {new.label}"
    problems = (
        [] if way in get_args(MigrationWay) else [f"way= is '{way}', expected one of {', '.join(get_args(MigrationWay))}"]
    )
    if is_bridged(new.passport):
        problems.append(f"{new.label} is a bridge: name the encoder that it leads to, and way='bridge'")
    if cut_over and way in ("dual", "through"):
        problems.append(f"way='{way}' gives old rows no vector in the new space, so nothing can be cut over to")
    if way == "kept" and not table.keeps_source:
        problems.append("the collection keeps no content; only one made with keep_source=True does")
    if way == "files" and table.keeps_source:
        problems.append("the collection keeps its content, which is read in the place of any file: way='kept' says so")
    elif way == "files" and not any(job.kind == "embed" for job in read_jobs(catalog.layout, table.name)):
        problems.append("no file was embedded into it: its rows were logged")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    work = _Work(catalog, table, old_of(catalog, table, new, call), new, store_key, workers, shown)
    began = time.monotonic()
    work.go(way)
    done = cut_over and work.cut_over(way)
    return MigrationReport(
        collection=table.name,
        old=work.old.label,
        new=new.label,
        way=way,
        steps=tuple(work.steps),
        serves=work.serves.label,
        left=work.left,
        through=work.through,
        cut_over=done,
        advice=work.advice,
        seconds=time.monotonic() - began,
    )


class _Work:
    """One migration: its steps so far, and the encoder that the collection can be asked by after them."""

    def __init__(
        self,
        catalog: Catalog,
        table: CollectionTable,
        old: Encoder,
        new: Encoder,
        store_key: bytes,
        workers: Workers,
        shown: Shown,
    ) -> None:
        self.catalog, self.table, self.old, self.new = catalog, table, old, new
        self.store_key, self.workers, self.shown = store_key, workers, shown
        self.serves = new
        self.steps: list[str] = []
        self.through: str | None = None
        self.advice: str | None = None

    @property
    def left(self) -> int:
        held = self.serves.fingerprint in self.table.fingerprints
        return self.table.count_lacking(self.serves.fingerprint) if held else self.table.count()

    def go(self, way: MigrationWay) -> None:
        ways: dict[MigrationWay, Callable[[], None]] = {
            "auto": self._auto,
            "kept": self._kept,
            "files": self._kept,
            "dual": self._dual,
            "bridge": self._bridge,
            "through": self._through,
        }
        ways[way]()

    def _dual(self) -> None:
        if write_both(self.table, self.new):
            self.steps.append(f"new rows get vectors of {self.old.label} and of {self.new.label} from now on")
        else:
            self.steps.append(f"new rows get vectors of both already; {self.left:,} rows have none of {self.new.label}")

    def _kept(self) -> None:
        for number in range(_ROUNDS):
            with self.shown(f"embedding {self.table.name} with {self.new.label}") as progress:
                report = add_encoder(
                    self.catalog.layout, self.table, self.new, self.store_key, workers=self.workers, progress=progress
                )
            if report.filled or not number:
                self.steps.append(str(report))
            if not report.filled or not report.left:
                break  # what was under way when the column came left rows without it: one more round fills them

    def _bridge(self) -> None:
        self._dual()
        self._cross(self._built("forward"))

    def _through(self) -> None:
        self._dual()
        encoder, bridge = self._built("back")
        self.through = encoder.name
        self._say(bridge)
        self.steps.append(f"search(through='{encoder.name}') asks the old rows with {self.new.label} from now on")

    def _auto(self) -> None:
        self._kept()
        if not self.left:
            return
        pairs = self._different_pairs()
        if pairs < LEAST_PAIRS and self._found("forward") is None:
            self.advice = (
                f"{self.left:,} rows have no content any more. New rows get both vectors: call this again when {LEAST_PAIRS} rows "
                f"have both ({pairs:,} different ones do), and the others are bridged."
            )
            return
        # The residual map takes minutes to fit, which few rows are not worth.
        encoder, bridge = self._built("forward", kinds=None if 10 * self.left > pairs else LINEAR)
        if not self._measured(bridge).usable:
            self._say(bridge)
            self.steps.append(f"{self.left:,} rows were not bridged: way='bridge' does it all the same")
            return
        self._cross((encoder, bridge))

    def _cross(self, built: tuple[Encoder, Bridge]) -> None:
        encoder, bridge = built
        self._say(bridge)
        self.serves = encoder
        for _ in range(_ROUNDS):
            with self.shown(f"bridging {self.table.name}") as progress:
                report = bridge_rows(self.catalog.layout, self.table, encoder, progress=progress)
            self.steps.append(str(report))
            if not self.left or not report.bridged + report.copied:
                break  # requests that were under way when the column came left rows without it: one more round fills them

    def _built(self, direction: Direction, kinds: Sequence[str] | None = None) -> tuple[Encoder, Bridge]:
        """The bridge there is, or one that is fitted now, of these kinds of map: where there is none, or it knew few of the pairs there
        are. Both directions come together."""
        found, back = self._found(direction), self._found("back")
        if found is None or self._outgrown(found[1]):
            name = bridge_name(self.old, self.new)
            with self.shown(f"fitting {name}") as progress:
                made = build_bridge(self.catalog, self.table, name, self.old, self.new, kinds=kinds, progress=progress)
            self.steps.append(str(made).splitlines()[0])
            back = made.back, read_bridge(self.catalog.layout, made.back.fingerprint, made.back.label)
            forward = made.forward, read_bridge(self.catalog.layout, made.forward.fingerprint, made.forward.label)
            found = forward if direction == "forward" else back
        self.through = back[0].name if back else None
        return found

    def _found(self, direction: Direction) -> tuple[Encoder, Bridge] | None:
        ends = self.old.fingerprint, self.new.fingerprint
        return find_bridge(self.catalog, *(ends if direction == "forward" else ends[::-1]), direction)

    def _different_pairs(self) -> int:
        """How many different rows have a vector of both; of enough that they are fitted on, as many as that."""
        ends = self.old.fingerprint, self.new.fingerprint
        rows = count_pairs(self.table, *ends)
        return rows if rows < LEAST_PAIRS else len(read_pairs(self.table, *ends, PAIRS))

    def _outgrown(self, bridge: Bridge) -> bool:
        """Whether there are twice as many pairs as the bridge was fitted on, or any more and it is not good (`Measured.good`).

        One that is usable by its labels alone stays: none are known here to measure another with.
        """
        then, measured = int(bridge.facts.get("pairs", 0)), self._measured(bridge)
        if measured.usable and not measured.good:
            return False
        # Of many that are drawn, not always as many differ: a hundredth more is more.
        least = 2 * then if measured.good else then + max(1, then // 100)
        ends = self.old.fingerprint, self.new.fingerprint
        if min(count_pairs(self.table, *ends), PAIRS) < least:
            return False
        now = len(read_pairs(self.table, *ends, PAIRS))
        if now < least:
            return False
        held = bridge.fingerprint in self.table.fingerprints
        drops = f"; retire_encoder('{bridge.label}') drops what it filled" if held else ""
        self.steps.append(
            f"{bridge.label} was fitted on {then:,} pairs, and there are {now:,} now: it is fitted anew{drops}"
        )
        return True

    def _measured(self, bridge: Bridge) -> Measured:
        return measured_of(bridge, self.table.count())

    def _say(self, bridge: Bridge) -> None:
        measured = self._measured(bridge)
        self.steps.append(f"the bridge {bridge.label} was measured on pairs held out: {measured}")
        if not measured.good:
            self.advice = (
                f"Re-embed where you can: of {bridge.label}, {measured}, {measured.short}. Where the content is gone, write both until "
                "more rows have true vectors."
            )

    def cut_over(self, way: str) -> bool:
        """Whether the collection is asked by `serves` from now on: not while rows would be lost to searches."""
        if left := self.left:
            self.steps.append(
                f"not cut over: {left:,} rows have no vector of {self.serves.label} and would not be found; "
                "use_encoder does it all the same"
            )
            return False
        self._index()
        made = make_current(self.catalog, self.table, self.serves.fingerprint, f"migrated from {self.old.label} ({way})")
        self.steps.append(f"{self.table.name} is asked by {self.serves.label} from now on (cut-over {made.number})")
        return True

    def _index(self) -> None:
        """Searches had an index, so they have one like it before they are asked in the new space."""
        layout, serves = self.catalog.layout, self.serves
        like = missing_index(layout, self.table.name, self.old.fingerprint, serves.fingerprint)
        if like is None:
            return
        with self.shown(f"indexing {self.table.name}") as progress:
            number, made = index_like(layout, self.table, like, serves.fingerprint, progress)
        self.steps.append(f"index {number} ({made.kind}) over {made.rows:,} vectors of {serves.label} was built")


def bridge_name(old: Encoder, new: Encoder) -> str:
    """'minilm2-from-minilm', what a migration calls a bridge that it builds; its way back is called so with '-back'."""
    return re.sub(r"[^a-z0-9_-]", "-", f"{new.name}-from-{old.name}")[:58]
