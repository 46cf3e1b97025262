"""A bridge built from a collection's pairs, and its column filled: which rows are bridged, which hold a true vector, which none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import raystore.migrate.bridge.rows as bridging
from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.encoders.bridged import read_bridge
from raystore.encoders.records import read_encoder
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import ColumnNotFound, InvalidArguments, InvalidName, PassportMismatch
from raystore.layout import filled_column, vector_column
from raystore.migrate.bridge import Bridged, bridge_rows, bridged_ids, build_bridge
from raystore.migrate.bridge.pairs import count_pairs, read_pairs
from raystore.migrate.plan import find_bridge
from raystore.vectors import Matrix

from .spaces import catalog_in, clustered, encoder_of, turned, write

OLD, NEW, N = 10, 6, 160
X = clustered(N, OLD)
Y = turned(X, NEW)
IDS = [f"r{i}" for i in range(N)]
GONE = [f"gone {i}" for i in range(5)]  # rows whose content is gone: of the old encoder alone


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return catalog_in(tmp_path)


@pytest.fixture
def old(catalog: Catalog) -> Encoder:
    return encoder_of(catalog, "old", OLD)


@pytest.fixture
def new(catalog: Catalog) -> Encoder:
    return encoder_of(catalog, "new", NEW)


@pytest.fixture
def table(catalog: Catalog, old: Encoder, new: Encoder) -> CollectionTable:
    """160 rows with a vector of both encoders, 5 of the old one alone."""
    made = CollectionTable.create(
        catalog.layout, "tickets", {old.fingerprint: OLD, new.fingerprint: NEW}, {"topic": "string"}
    )
    write(made, IDS, {old.fingerprint: X, new.fingerprint: Y})
    write(made, GONE, {old.fingerprint: X[:5], new.fingerprint: Y[:5]}, {new.fingerprint: [False] * 5})
    return made


def build(catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder, **options: object) -> Bridged:
    asked = {"kinds": ["procrustes", "low-rank"], **options}
    return build_bridge(catalog, table, "new-bridged", old, new, **asked)  # type: ignore[arg-type]


def stored(table: CollectionTable, fingerprint: str, ids: list[str]) -> Matrix:
    return np.asarray(table.vectors_of(ids, fingerprint))


def test_both_directions_are_encoders_of_their_own(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    made = build(catalog, table, old, new)
    encoders = Encoders(catalog)
    assert (encoders["new-bridged"], encoders["new-bridged-back"]) == (made.forward, made.back)
    assert len({e.fingerprint for e in (old, new, made.forward, made.back)}) == 4
    assert (made.forward.dim, made.back.dim) == (NEW, OLD)
    there, back = (read_bridge(catalog.layout, e.fingerprint, e.label) for e in (made.forward, made.back))
    assert (there.direction, there.source, there.target) == ("forward", old.fingerprint, new.fingerprint)
    assert (back.direction, back.source, back.target) == ("back", new.fingerprint, old.fingerprint)
    card = read_encoder(catalog.layout, made.forward.fingerprint).card.bridge
    assert card is not None
    assert (card["direction"], card["from"], card["to"]) == ("forward", old.fingerprint, new.fingerprint)
    assert (card["kind"], card["pairs"], card["collection"]) == (made.fidelity.kind, N, "tickets")
    assert card["fidelity"]["recall"] == made.fidelity.recall > 0.85
    said = str(made).splitlines()
    assert said[0] == (
        f"{made.forward.label} takes {old.label} into the space of {new.label}, and {made.back.label} back; "
        "fitted on 160 pairs of 'tickets'"
    )
    assert [line.split()[0] for line in said[1:5]].count("*") == 2
    assert "chosen" in made._repr_html_()


def test_the_same_pairs_give_the_same_bridge_and_no_new_record(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    first, again = (build(catalog, table, old, new) for _ in range(2))
    assert (first.forward, first.back) == (again.forward, again.back)
    assert catalog.latest(catalog.layout.aliases("encoder", "new-bridged"))[0] == 1  # type: ignore[index]


def test_rows_whose_content_is_gone_are_bridged_and_the_others_keep_their_true_vector(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    made = build(catalog, table, old, new)
    seen: list[tuple[int, int]] = []
    report = bridge_rows(catalog.layout, table, made.forward, progress=lambda done, of: seen.append((done, of)))
    assert (report.lacking, report.bridged, report.copied, report.left) == (N + 5, 5, N, 0)
    assert seen == [(N + 5, N + 5)]
    forward = made.forward.fingerprint
    assert (stored(table, forward, IDS) == stored(table, new.fingerprint, IDS)).all()
    crossed = read_bridge(catalog.layout, forward).cross(table.vectors_of(GONE, old.fingerprint))
    np.testing.assert_allclose(stored(table, forward, GONE), np.asarray(crossed), atol=1e-6)
    assert (crossed.fingerprint, int(bridged_ids(table, forward, [*IDS, *GONE]).sum())) == (forward, 5)
    asked = [*GONE, *IDS[:3], "nowhere"]
    assert bridged_ids(table, forward, asked).tolist() == [True] * 5 + [False] * 4
    assert str(report).startswith(
        f"tickets: 5 rows were bridged into {made.forward.label} and 160 got a copy of their true vector; "
    )
    assert "5 rows of tickets were bridged" in report._repr_html_()


def test_bridging_again_fills_what_came_since_and_nothing_twice(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    forward = build(catalog, table, old, new).forward
    bridge_rows(catalog.layout, table, forward)
    version = table.version
    assert bridge_rows(catalog.layout, table, forward).lacking == 0
    assert table.version == version
    none = {old.fingerprint: [False], new.fingerprint: [False]}
    write(table, ["late"], {old.fingerprint: X[7:8], new.fingerprint: Y[7:8]}, {new.fingerprint: [False]})
    write(table, ["empty"], {old.fingerprint: X[:1], new.fingerprint: Y[:1]}, none)
    report = bridge_rows(catalog.layout, table, forward)
    assert (report.lacking, report.bridged, report.copied, report.left) == (2, 1, 0, 1)
    assert "; 1 have none, for they have no vector of either encoder; " in str(report)
    assert bridged_ids(table, forward.fingerprint, ["late", "empty"]).tolist() == [True, False]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_bridging_that_was_killed_midway_goes_on_with_what_is_lacking(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridging, "_BATCH", 40)
    forward = build(catalog, table, old, new).forward
    seen: list[int] = []

    def die(done: int, total: int) -> None:
        seen.append(done)
        if done == 80:
            raise Killed

    with pytest.raises(Killed):
        bridge_rows(catalog.layout, table, forward, progress=die)
    assert (seen, table.count_lacking(forward.fingerprint)) == ([40, 80], N + 5 - 80)
    committed = table.version
    report = bridge_rows(catalog.layout, CollectionTable.open(catalog.layout, "tickets"), forward)
    assert (report.lacking, report.bridged, report.copied, report.left) == (N + 5 - 80, 5, N - 80, 0)
    assert table.version > committed
    assert (stored(table, forward.fingerprint, IDS) == stored(table, new.fingerprint, IDS)).all()
    assert bridged_ids(table, forward.fingerprint, [*IDS, *GONE]).tolist() == [False] * N + [True] * 5


def test_of_several_bridges_the_one_of_most_pairs_is_found_then_the_newest_and_none_that_lost_its_name(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    def found() -> Encoder:
        one = find_bridge(catalog, old.fingerprint, new.fingerprint, "forward")
        assert one is not None
        return one[0]

    assert find_bridge(catalog, old.fingerprint, new.fingerprint, "forward") is None
    first = build(catalog, table, old, new, kinds=["procrustes"])
    assert found() == first.forward
    few = build_bridge(catalog, table, "few", old, new, pairs=120, kinds=["procrustes"])
    assert found() == first.forward
    newest = build_bridge(catalog, table, "another", old, new, kinds=["low-rank"])
    assert found() == newest.forward
    again = build_bridge(catalog, table, "third", old, new, kinds=["procrustes"])
    assert again.forward == first.forward  # the same map, which has two names
    catalog.set_alias("encoder", "another", {"fingerprint": few.forward.fingerprint})
    assert found() == first.forward
    for name in ("new-bridged", "third"):
        catalog.set_alias("encoder", name, {"fingerprint": few.forward.fingerprint})
    assert found() == few.forward


def test_a_row_that_got_its_true_vector_first_is_not_bridged_and_one_that_gets_it_later_stays_so(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    """The mark is written in the commit that bridges, so it does not follow from what is true of the row afterwards."""
    forward = build(catalog, table, old, new).forward
    table.add_encoder(forward.fingerprint, forward.dim)
    column = vector_column(forward.fingerprint)
    payloads = table.rows.dataset().to_table(columns=["id", "_payload", vector_column(new.fingerprint)])
    first = payloads.filter(np.isin(payloads["id"].to_pylist(), IDS[:1])).rename_columns(["id", "_payload", column])
    table.fill(first, forward.fingerprint)  # its own encoder embedded it, and nobody bridged anything
    bridge_rows(catalog.layout, table, forward)
    late = payloads.filter(np.isin(payloads["id"].to_pylist(), GONE)).select(["id", "_payload"])
    values = payloads.filter(np.isin(payloads["id"].to_pylist(), IDS[:5]))[vector_column(new.fingerprint)]
    table.fill(late.append_column(vector_column(new.fingerprint), values), new.fingerprint)
    assert table.count_lacking(new.fingerprint) == 0
    assert bridged_ids(table, forward.fingerprint, [IDS[0], *GONE]).tolist() == [False] + [True] * 5
    assert filled_column(forward.fingerprint) in table.schema.names


def test_a_reader_of_an_earlier_version_sees_no_bridged_vector(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    forward = build(catalog, table, old, new).forward
    before = table.version
    bridge_rows(catalog.layout, table, forward)
    assert sum(len(batch.ids) for batch in table.scan(forward.fingerprint, as_of=before)) == 0
    assert sum(len(batch.ids) for batch in table.scan(forward.fingerprint)) == N + 5


def test_pairs_are_rows_with_both_and_of_rows_that_are_alike_one(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    write(table, ["again", "and again"], {old.fingerprint: X[:2], new.fingerprint: Y[:2]})
    assert count_pairs(table, old.fingerprint, new.fingerprint) == N + 2
    pairs = read_pairs(table, old.fingerprint, new.fingerprint, 1_000)
    assert (len(pairs), pairs.labels) == (N, None)
    at = {row.tobytes(): i for i, row in enumerate(stored(table, old.fingerprint, IDS))}
    places = [at[row.tobytes()] for row in pairs.old]
    assert (pairs.new == stored(table, new.fingerprint, IDS)[places]).all()
    some = read_pairs(table, old.fingerprint, new.fingerprint, 50, seed=1)
    assert len(some) == 50


def test_labels_are_a_kept_column_or_a_mapping(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    labels = {id_: "a" if i % 2 else "b" for i, id_ in enumerate(IDS[:100])}
    pairs = read_pairs(table, old.fingerprint, new.fingerprint, 1_000, labels=labels)
    assert pairs.labels is not None
    assert np.unique(pairs.labels, return_counts=True)[1].tolist() == [60, 50, 50]
    by_column = read_pairs(table, old.fingerprint, new.fingerprint, 1_000, labels="topic")
    assert by_column.labels is not None
    assert (by_column.labels == -1).all()
    with pytest.raises(ColumnNotFound):
        read_pairs(table, old.fingerprint, new.fingerprint, 1_000, labels="colour")
    assert build(catalog, table, old, new, labels=labels).fidelity.labelled == 100


def test_everything_wrong_with_a_call_is_said_at_once(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        build_bridge(catalog, table, "old", old, old, back="old", pairs=0)
    assert refused.value.problems == [
        f"{old.label} and {old.label} are one encoder, whose vectors may be compared as they are",
        "both directions have one name, and they are two encoders",
        f"'old' is the name of {old.label}: a bridge is an encoder of its own and needs another",
        "pairs= is a whole number from 1",
    ]
    with pytest.raises(InvalidName):
        build_bridge(catalog, table, "No name", old, new)
    with pytest.raises(InvalidArguments, match="50 different rows have a vector of both encoders"):
        build(catalog, table, old, new, pairs=50)
    other = encoder_of(catalog, "other", 4)
    with pytest.raises(PassportMismatch):
        build(catalog, table, old, other)


def test_a_bridge_leads_from_encoders_and_fills_by_its_forward_direction(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    made = build(catalog, table, old, new)
    with pytest.raises(InvalidArguments) as chained:
        build_bridge(catalog, table, "twice", old, made.forward)
    assert chained.value.problems == [f"{made.forward.label} is itself a bridge between two encoders"]
    with pytest.raises(InvalidArguments) as wrong:
        bridge_rows(catalog.layout, table, made.back)
    assert wrong.value.problems == [
        f"{made.back.label} leads from the new encoder back into the old one's space, where each row has its true vector"
    ]
    with pytest.raises(InvalidArguments) as none:
        bridge_rows(catalog.layout, table, old)
    assert none.value.problems == [f"encoder {old.label} is no bridge between two encoders; build one with build_bridge"]
