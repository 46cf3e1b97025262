"""An encoder leaves a collection: killed at any step, and asked again; what is recorded of it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lance
import numpy as np
import pytest
from lance.optimize import Compaction

import raystore.data.dropping as dropping
from raystore.catalog import Catalog, Record
from raystore.data.collection import CollectionTable
from raystore.data.keyed import KeyedTable
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments, PassportMismatch
from raystore.layout import Layout, numbers
from raystore.migrate.retire import Retired, retire

from .spaces import catalog_in, clustered, encoder_of, write

N, LONE = 300, 4
X, Y = clustered(N, 8), clustered(N, 6)
NEEDLE = X[7].tobytes()
LEFT = "left-by-a-killed-writer.lance"


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class World:
    """A store whose collection has encoders `new` (first) and `old`, an index and a table of pairs over `old`, and 4 rows that
    have a vector of `old` alone."""

    def __init__(self, folder: Path) -> None:
        self.catalog = catalog_in(folder)
        self.old, self.new = encoder_of(self.catalog, "old", 8), encoder_of(self.catalog, "new", 6)
        dims = {each.fingerprint: each.dim for each in (self.new, self.old)}
        self.table = CollectionTable.create(self.catalog.layout, "tickets", dims)
        for start in range(0, N, 100):
            ids, part = [f"r{i}" for i in range(start, start + 100)], slice(start, start + 100)
            write(self.table, ids, {self.old.fingerprint: X[part], self.new.fingerprint: Y[part]})
        vectors = {self.old.fingerprint: X[:LONE], self.new.fingerprint: Y[:LONE]}
        write(self.table, [f"lone {i}" for i in range(LONE)], vectors, {self.new.fingerprint: [False] * LONE})
        layout = self.catalog.layout
        self.folders = layout.indexes("tickets", self.old.fingerprint), layout.graphs("tickets", self.old.fingerprint)
        for made in (self.folders[0] / "1", self.folders[0] / "2", self.folders[1] / "groups-1.lance"):
            made.mkdir(parents=True)
            (made / "vectors").write_bytes(NEEDLE)

    def copied(self, folder: Path) -> World:
        """The same as it is on the disk."""
        root = shutil.copytree(self.catalog.layout.root, folder)
        other = copy.copy(self)
        other.catalog = Catalog(Layout(root))
        other.table = CollectionTable.open(other.catalog.layout, "tickets")
        indexes, graphs = (root / each.relative_to(self.catalog.layout.root) for each in self.folders)
        other.folders = indexes, graphs
        return other

    def retire(self, encoder: Encoder | None = None, force: str | None = "nobody asks it") -> Retired:
        return retire(self.catalog, self.table, encoder or self.old, force=force)

    @property
    def records(self) -> list[Record]:
        folder = self.catalog.layout.aliases("retired", "tickets")
        found = [self.catalog.record(folder, number) for number in numbers(folder)]
        return [each for each in found if each is not None]

    def holding(self) -> list[str]:
        return [str(path) for path in self.catalog.layout.root.rglob("*") if path.is_file() and NEEDLE in path.read_bytes()]

    def check_gone(self, gone: Retired) -> None:
        assert (gone.rows, gone.lost, gone.indexes, gone.graphs, gone.reason) == (N + LONE, LONE, 2, 1, "nobody asks it")
        assert gone.overruled == ("4 rows have a vector of no other encoder: bridge or re-embed them first",)
        assert gone.freed_bytes > N * 8 * 4
        assert self.holding() == []
        assert [folder.exists() for folder in self.folders] == [False, False]
        assert self.table.fingerprints == [self.new.fingerprint]
        ids = [f"r{i}" for i in range(N)]
        assert (np.asarray(self.table.vectors_of(ids, self.new.fingerprint)) == Y).all()
        assert len(self.table.to_arrow(["id"])) == N + LONE


class Mortal:
    """The steps of a retirement, before the n-th of which a process dies."""

    left: ClassVar[int | None] = None

    @classmethod
    def step(cls) -> None:
        if cls.left is not None:
            cls.left -= 1
            if cls.left < 0:
                raise Killed

    @classmethod
    def before(cls, work: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any, **options: Any) -> Any:
            cls.step()
            return work(*arguments, **options)

        return stepping


@pytest.fixture
def _mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (Catalog, "put"),
        (lance.LanceDataset, "drop_columns"),
        (KeyedTable, "_rewrite"),
        (lance.LanceDataset, "cleanup_old_versions"),
    ):
        monkeypatch.setattr(owner, name, Mortal.before(getattr(owner, name)))

    class Mortally:
        plan = staticmethod(Compaction.plan)
        commit = staticmethod(Mortal.before(Compaction.commit))

    monkeypatch.setattr(dropping, "Compaction", Mortally)
    monkeypatch.setattr(dropping, "_ROWS_A_TURN", 200)
    unlink, rmtree = Path.unlink, shutil.rmtree

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        if path.name == LEFT:
            Mortal.step()
        unlink(path, missing_ok=missing_ok)

    def halving(folder: Path, ignore_errors: bool = False) -> None:
        if Mortal.left is not None:
            Mortal.step()
            rmtree(sorted(folder.iterdir())[0])
            Mortal.step()
        rmtree(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(Path, "unlink", unlinking)
    monkeypatch.setattr(shutil, "rmtree", halving)


@pytest.mark.usefixtures("_mortal")
def test_a_retirement_killed_at_any_step_is_completed_by_the_next_call(tmp_path: Path) -> None:
    prepared = World(tmp_path / "prepared")
    (prepared.table.rows.path / "data" / LEFT).write_bytes(NEEDLE)
    killed, step = True, 0
    while killed:
        world = prepared.copied(tmp_path / str(step))
        Mortal.left = step
        try:
            gone, killed = world.retire(), False
        except Killed:
            Mortal.left = None
            dropped = world.old.fingerprint not in world.table.fingerprints
            # Until something went, whoever asks again must want it again.
            gone = world.retire(force=None if dropped else "nobody asks it")
        Mortal.left = None
        world.check_gone(gone)
        said = [record["state"] for record in world.records]
        assert said in (["begun", "done"], ["begun", "begun", "done"])
        assert all(record["rows"] == N + LONE and record["lost"] == LONE for record in world.records)
        assert world.records[-1]["freed_bytes"] == gone.freed_bytes
        with pytest.raises(PassportMismatch):
            world.retire()
        assert len(world.records) == len(said)
        step += 1
    assert step > 12


@pytest.mark.usefixtures("_mortal")
def test_an_encoder_that_was_never_held_is_refused_while_another_retirement_is_unfinished(tmp_path: Path) -> None:
    world = World(tmp_path)
    stranger = encoder_of(world.catalog, "stranger", 5)
    Mortal.left = 3
    with pytest.raises(Killed):
        world.retire()
    Mortal.left = None
    assert world.table.fingerprints == [world.new.fingerprint]
    with pytest.raises(PassportMismatch) as refused:
        world.retire(stranger)
    assert refused.value.found == stranger.label
    assert [record["state"] for record in world.records] == ["begun"]
    world.check_gone(world.retire())


@pytest.mark.usefixtures("_mortal")
def test_an_encoder_that_came_back_after_a_kill_is_checked_like_any_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    Mortal.left = 3
    with pytest.raises(Killed):
        world.retire()
    Mortal.left = None
    world.table.add_encoder(world.old.fingerprint, world.old.dim)
    vectors = {world.old.fingerprint: X[:2], world.new.fingerprint: Y[:2]}
    write(world.table, ["late", "later"], vectors, {world.new.fingerprint: [False] * 2})
    with pytest.raises(InvalidArguments) as refused:
        world.retire(force=None)
    assert refused.value.problems == [
        "2 rows have a vector of no other encoder: bridge or re-embed them first",
        "force='<reason>' does it all the same; the reason is kept",
    ]
    gone = world.retire(force="again")
    assert (gone.rows, gone.lost, gone.reason) == (2, 2, "again")
    assert world.holding() == []
    assert [(record["state"], record["reason"]) for record in world.records] == [
        ("begun", "nobody asks it"),
        ("begun", "again"),
        ("done", "again"),
    ]
