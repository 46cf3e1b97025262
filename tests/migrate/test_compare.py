"""What changes with the encoder, on rows that have a true vector of both: which rows are asked, what is found, and what is advised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.encoders.bridged import read_bridge
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.layout import vector_column
from raystore.migrate.bridge import bridge_rows, build_bridge
from raystore.migrate.bridge.fidelity import look
from raystore.migrate.compare import Compared, compare_encoders

from .spaces import catalog_in, clustered, encoder_of, turned, write

OLD, NEW, PAIRS, LATE = 10, 8, 160, 60
X = clustered(PAIRS + LATE, OLD)
Y = turned(X, NEW, noise=0.02)
IDS = [f"r{i}" for i in range(PAIRS + LATE)]


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
    """160 rows with a vector of both encoders, 60 of the old one alone."""
    made = CollectionTable.create(catalog.layout, "tickets", {old.fingerprint: OLD, new.fingerprint: NEW})
    has = [True] * PAIRS + [False] * LATE
    write(made, IDS, {old.fingerprint: X, new.fingerprint: Y}, {new.fingerprint: has})
    return made


def bridge(catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder) -> Encoder:
    """The forward bridge, with its column filled."""
    made = build_bridge(catalog, table, "bridged", old, new, kinds=["procrustes"]).forward
    bridge_rows(catalog.layout, table, made)
    return made


def embed_late(table: CollectionTable, new: Encoder) -> None:
    """The rows that were bridged get their true vectors."""
    column = vector_column(new.fingerprint)
    rows = table.rows.dataset().to_table(columns=["id", "_payload", column])
    at = {id_: i for i, id_ in enumerate(rows["id"].to_pylist())}
    late, known = [at[id_] for id_ in IDS[PAIRS:]], [at[id_] for id_ in IDS[:LATE]]
    given = rows.take(late).select(["id", "_payload"]).append_column(column, rows.take(known)[column])
    table.fill(given, new.fingerprint)


def test_rows_that_were_bridged_before_they_got_their_true_vector_are_asked_alone(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    forward = bridge(catalog, table, old, new)
    before = compare_encoders(catalog, table, old, new)
    assert (before.n, before.unseen) == (PAIRS, False)
    embed_late(table, new)
    found = compare_encoders(catalog, table, old, new)
    assert (found.n, found.unseen, found.bridge) == (LATE, True, forward.label)
    crossed = np.asarray(read_bridge(catalog.layout, forward.fingerprint).cross(X[PAIRS:]))
    true = Y[:LATE]  # what `embed_late` gave them
    assert found.recall == pytest.approx(look("forward", crossed, true, true, np.arange(LATE)).recalls.mean())
    assert found.title == (
        f"tickets: what {new.label} finds, found by rows bridged by {forward.label}; 60 rows with both, which the bridge was fitted "
        "without"
    )
    assert "some of which the bridge may have been fitted on" in before.title


def test_with_labels_both_figures_are_said_of_all_rows_and_of_each_class(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    bridge(catalog, table, old, new)
    labels = {id_: "even" if i % 2 else "odd" for i, id_ in enumerate(IDS[:100])}
    found = compare_encoders(catalog, table, old, new, labels=labels)
    assert [(row["class"], row["rows"]) for row in found.rows] == [("all rows", PAIRS), ("even", 50), ("odd", 50)]
    assert found.kept is not None
    assert (found.rows[0]["recall"], found.rows[0]["kept"]) == (found.recall, found.kept)
    assert str(found).splitlines()[1] == (
        f"  all rows: recall@10 {found.recall:.1%}, label searches keep {found.kept:.1%} (160 rows)"
    )
    plain = compare_encoders(catalog, table, old, new)
    assert (plain.kept, plain.recall) == (None, found.recall)
    assert str(plain).splitlines()[1] == f"  all rows: recall@10 {found.recall:.1%} (160 rows)"


@pytest.mark.parametrize(
    ("recall", "kept", "said"),
    [
        (0.9, None, None),
        (0.5, 0.95, "recall@10 50.0% among 160 rows, label searches keep 95.0%, the first below 90%"),
        (0.5, None, "recall@10 50.0% among 160 rows, below 90%"),
        (0.5, 0.8, "recall@10 50.0% among 160 rows, label searches keep 80.0%, both below 90%"),
        (
            0.2,
            1.2,
            "recall@10 20.0% among 160 rows, label searches keep 120.0%, and where two of three "
            "neighbours are others, labels say nothing",
        ),
    ],
)
def test_it_says_to_re_embed_by_the_rule_that_bridges_are_judged_by(
    recall: float, kept: float | None, said: str | None
) -> None:
    rows = ({"class": "all rows", "rows": 160, "recall": recall, "kept": kept},)
    found = Compared("tickets", "old", "new", "bridged", None, 160, False, recall, kept, {}, 0.01, 160, rows)
    assert found.advice == (None if said is None else f"Re-embed where you can: rows bridged by bridged give {said}.")
    assert (said is None) == ("Re-embed" not in str(found))


def test_without_a_bridge_it_is_what_old_vectors_find_and_a_bridge_from_elsewhere_is_refused(
    catalog: Catalog, table: CollectionTable, old: Encoder, new: Encoder
) -> None:
    found = compare_encoders(catalog, table, old, new)
    assert (found.bridge, found.advice, found.n) == (None, None, PAIRS)
    assert found.title == (
        f"tickets: what {new.label} finds, found by vectors of {old.label}, for there is no bridge; 160 rows with both"
    )
    forward = bridge(catalog, table, old, new)
    with pytest.raises(InvalidArguments) as refused:
        compare_encoders(catalog, table, new, forward)
    assert refused.value.problems == [f"{forward.label} is no bridge that leads from {new.label}"]
