"""A publisher that is killed at any step: no reader sees a row twice, and the next call completes."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import raystore.data.publish.publish as publishing
from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.publish.parts import Predictions
from raystore.data.publish.publish import publish
from raystore.data.tables.table import SourceTable, open_table, register_table
from raystore.layout import Layout
from tests.data.toy import ToyEncoder, make_log, make_store, make_tickets


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class Mortal(LocalFileSystem):
    """The local disk, on which a process dies before its n-th change; `watch` looks at the folder before each. It suffices: what a
    kill inside one change can leave is a half-written staged file, which is what a death right after its creation leaves too."""

    protocol = "mortal"
    cachable = False
    left: ClassVar[int | None] = None
    watch: ClassVar[Callable[[], None] | None] = None

    def _change(self) -> None:
        if Mortal.watch is not None:
            Mortal.watch()
        if Mortal.left is not None:
            Mortal.left -= 1
            if Mortal.left < 0:
                raise Killed

    def _open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        if "r" not in mode:
            self._change()
        return super()._open(path, mode=mode, **more)

    def mv(self, path1: str, path2: str, **more: Any) -> None:
        self._change()
        super().mv(path1, path2, **more)

    def rm_file(self, path: str) -> None:
        self._change()
        super().rm_file(path)

    def rm(self, path: str, **more: Any) -> None:
        self._change()
        super().rm(path, **more)

    def rmdir(self, path: str) -> None:
        self._change()
        super().rmdir(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._change()
        super().makedirs(path, exist_ok=exist_ok)


@pytest.fixture(autouse=True, scope="module")
def _mortal() -> None:
    fsspec.register_implementation("mortal", Mortal, clobber=True)


def rows_in(folder: Path, what: str) -> list[dict[str, Any]]:
    """As a warehouse reads them, by a glob."""
    return [row for file in sorted(folder.glob(f"{what}/*.parquet")) for row in pq.read_table(file).to_pylist()]


class World:
    """A collection with labels and a head, and its copy."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(make_store(folder / "store"))
        self.table: CollectionTable = make_tickets(self.catalog.layout)
        self.folder = folder / "lake"
        self.head = "lengths@1"
        self.held: set[str] = set()
        self.label: dict[str, str] = {"a": "x"}
        self.outcomes: SourceTable = self.relabel(a="x")

    def copied(self, folder: Path) -> World:
        """The same beside it: store and copy, as they are on the disk."""
        shutil.copytree(self.folder.parent, folder)
        other = copy.copy(self)
        other.catalog = Catalog(Layout(folder / "store"))
        other.table = CollectionTable.open(other.catalog.layout, "tickets")
        other.outcomes = open_table(other.catalog, "outcomes")
        other.folder, other.held, other.label = folder / "lake", set(self.held), dict(self.label)
        return other

    def log(self, *ids: str) -> None:
        make_log(self.table).log([{"id": i, "text": "e" * len(i)} for i in ids])
        self.held |= set(ids)

    def erase(self, *ids: str) -> None:
        self.table.rows.dataset().delete(f"id IN ({', '.join(repr(i) for i in ids)})")
        self.held -= set(ids)

    def relabel(self, **by_id: str) -> SourceTable:
        self.label |= by_id
        rows = [{"ticket": i, "outcome": o} for i, o in self.label.items()]
        self.outcomes = register_table(self.catalog, "outcomes", rows, id="ticket")
        return self.outcomes

    def publish(self, killed_after: int | None = None) -> None:
        def of(ids: Any) -> pa.Table:
            return pa.table({"id": pa.array(ids, pa.string()), "head": pa.array([self.head] * len(ids), pa.string())})

        Mortal.left = killed_after
        try:
            publish(
                self.table,
                f"mortal://{self.folder}",
                labels={"outcomes": self.outcomes},
                predictions={"lengths": Predictions(self.head, ToyEncoder.fingerprint, of)},
            )
        finally:
            Mortal.left = None

    def is_killed(self, after: int) -> bool:
        try:
            self.publish(after)
        except Killed:
            return True
        return False

    def check_readers(self) -> None:
        """What holds at every moment."""
        for what, key in (("rows", "id"), ("labels/outcomes", "ticket"), ("predictions/lengths", "id")):
            ids = [row[key] for row in rows_in(self.folder, what)]
            assert len(ids) == len(set(ids)), f"{what} shows a row twice"

    def check_current(self) -> None:
        """What holds after a call."""
        assert sorted(r["id"] for r in rows_in(self.folder, "rows")) == sorted(self.held)
        labels = {r["ticket"]: r["outcome"] for r in rows_in(self.folder, "labels/outcomes")}
        assert labels == {i: o for i, o in self.label.items() if i in self.held}
        predicted = {r["id"]: r["head"] for r in rows_in(self.folder, "predictions/lengths")}
        assert predicted == dict.fromkeys(self.held, self.head)
        self.check_readers()
        assert sorted(p.name for p in self.folder.iterdir()) == ["_manifests", "labels", "predictions", "rows"]


def first_call(world: World) -> None:
    world.log("a", "b")


def news_of_every_kind(world: World) -> None:
    world.log("a", "b")
    world.publish()
    world.log("c")
    world.publish()
    world.log("d")
    world.erase("a")
    world.relabel(b="y", c="y")
    world.head = "lengths@2"


def merging(world: World) -> None:
    for n in range(8):
        world.log(f"t-{n}")
        world.publish()
    world.log("late")
    world.erase("t-3")


@pytest.mark.parametrize("prepare", [first_call, news_of_every_kind, merging])
def test_a_publisher_killed_at_any_step_is_completed_by_the_next_call(
    prepare: Callable[[World], None], tmp_path: Path
) -> None:
    prepared = World(tmp_path / "prepared")
    prepare(prepared)
    step = 0
    while True:
        step += 1
        world = prepared.copied(tmp_path / str(step))
        Mortal.watch = world.check_readers
        killed = world.is_killed(step - 1)
        Mortal.watch = None
        world.check_readers()
        world.publish()
        world.check_current()
        if not killed:
            break
    assert step > 10


def test_rows_that_stay_are_seen_at_every_moment_while_others_are_erased(tmp_path: Path) -> None:
    """A rewritten file takes the old one's place in one rename."""
    world = World(tmp_path)
    news_of_every_kind(world)

    def look() -> None:
        assert {"b", "c"} <= {row["id"] for row in rows_in(world.folder, "rows")}

    Mortal.watch = look
    world.publish()
    Mortal.watch = None
    world.check_current()


class Publishing(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.tmp = tempfile.TemporaryDirectory()
        self.world = World(Path(self.tmp.name))
        self.n = 0
        self.published = False

    @rule(n=st.integers(1, 3))
    def log(self, n: int) -> None:
        self.world.log(*(f"t-{self.n + i}" for i in range(n)))
        self.n += n

    @precondition(lambda self: self.world.held)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        self.world.erase(*data.draw(st.lists(st.sampled_from(sorted(self.world.held)), min_size=1, max_size=2)))

    @rule(data=st.data(), label=st.sampled_from(["x", "y"]))
    def relabel(self, data: st.DataObject, label: str) -> None:
        self.world.relabel(**{f"t-{data.draw(st.integers(0, self.n + 2))}": label})

    @rule()
    def new_head(self) -> None:
        self.world.head = f"lengths@{int(self.world.head.split('@')[1]) + 1}"

    @rule(after=st.integers(0, 14))
    def killed(self, after: int) -> None:
        if not self.world.is_killed(after):
            self.world.check_current()
        self.world.check_readers()

    @rule()
    def publish(self) -> None:
        self.world.publish()
        self.world.check_current()

    def teardown(self) -> None:
        if hasattr(self, "tmp"):
            self.tmp.cleanup()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "FILE_ROWS", 2_000)


TestPublishing = pytest.mark.usefixtures("_mortal")(Publishing.TestCase)
TestPublishing.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
