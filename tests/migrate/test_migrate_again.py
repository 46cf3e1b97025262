"""A migration that meets what was under way, and one that is called again when there is more to go by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raystore
from raystore.collection import Collection
from raystore.data.log import RowLog
from raystore.encoders.bridged import read_bridge
from raystore.encoders.registry import Encoder
from raystore.migrate import run
from raystore.migrate.bridge import bridged_ids
from raystore.migrate.bridge.fidelity import Measured
from raystore.migrate.run import migrate
from raystore.store import Store

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [" ".join(three) for three in itertools.product(WORDS, WORDS, WORDS)]
GONE = TEXTS[-4:]


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> Store:
    """Encoders `old` (16 numbers), `near` (32, which cuts long texts alone) and `new` (32)."""
    made = raystore.open(tmp_path / "store")
    made.encoders.register("old", tiny_model, dimensions=16)
    made.encoders.register("near", tiny_model, max_length=16)
    made.encoders.register("new", tiny_model)
    return made


def both(store: Store, old: str, rows: int = 120) -> Collection:
    """Rows with vectors of the old encoder and of `new`, and 4 that came as old vectors."""
    made = store.create_collection("tickets", encoder=[old, "new"])
    more(made, 0, rows)
    encoder = store.encoder(old)
    lone = [{"id": f"gone {i}", "vector": v} for i, v in enumerate(encoder.encode(GONE))]
    made.log(lone, fingerprint=encoder.fingerprint)
    return made


def more(tickets: Collection, start: int, stop: int) -> None:
    tickets.log([{"id": f"t-{i}", "text": TEXTS[i]} for i in range(start, stop)])


def recall_of(store: Store, encoder: Encoder) -> float:
    return float(read_bridge(store.layout, encoder.fingerprint).facts["fidelity"]["recall"])


@pytest.mark.parametrize("way", ["kept", "auto"])
def test_rows_of_requests_that_began_before_the_column_get_their_true_vector_too(store: Store, way: str) -> None:
    tickets = store.create_collection("tickets", encoder="old", keep_source=True)
    more(tickets, 0, 120)
    begun = RowLog(tickets.table, store.encoder("old").load(), store.key)  # it knew one encoder when it began
    late = iter(range(120, 123))

    def progress(done: int, total: int) -> None:
        if done == total and (i := next(late, None)) is not None:
            begun.log([{"id": f"t-{i}", "text": TEXTS[i]}])

    report = tickets.migrate("new", way, cut_over=True, workers=0, progress=progress)  # type: ignore[arg-type]
    new = store.encoder("new")
    assert (report.left, report.cut_over, report.serves) == (0, True, new.label)
    assert [step.split(" rows ")[0] for step in report.steps[:-1]] == [
        "tickets: 120 of 120", "tickets: 1 of 1", "tickets: 1 of 1", "tickets: 1 of 1"
    ]  # fmt: skip
    np.testing.assert_allclose(
        np.asarray(tickets.table.vectors_of(["t-122"], new.fingerprint)), new.encode([TEXTS[122]]), atol=1e-4
    )
    assert [e.name for e in tickets.encoders] == ["old", "new"]


def test_auto_bridges_the_rows_whose_content_is_gone_by_a_bridge_that_finds_what_re_embedding_finds(store: Store) -> None:
    tickets = both(store, "near")
    report = tickets.migrate("new", cut_over=True)
    forward = store.encoder("new-from-near")
    assert recall_of(store, forward) >= 0.9
    assert (report.left, report.cut_over, report.serves, report.advice) == (0, True, forward.label, None)
    assert report.steps[1].startswith(f"{forward.label} takes {store.encoder('near').label} into the space of ")
    assert report.steps[3].startswith(
        f"tickets: 4 rows were bridged into {forward.label} and 120 got a copy of their true vector; "
    )
    assert report.steps[-1] == f"tickets is asked by {forward.label} from now on (cut-over 1)"
    assert bridged_ids(tickets.table, forward.fingerprint, ["gone 0", "t-0"]).tolist() == [True, False]
    assert tickets.search(GONE[2], k=1).ids == [["gone 2"]]


def test_auto_with_a_bridge_below_90_percent_bridges_nothing_and_says_to_re_embed(store: Store) -> None:
    tickets = both(store, "old")
    report = tickets.migrate("new", cut_over=True)
    forward, new = store.encoder("new-from-old"), store.encoder("new")
    assert recall_of(store, forward) < 0.9
    assert (report.left, report.cut_over, report.serves) == (4, False, new.label)
    fidelity = read_bridge(store.layout, forward.fingerprint).facts["fidelity"]
    expected = Measured(fidelity["recall"], None, 120, fidelity["falls"], 124).expected
    assert report.advice == (
        f"Re-embed where you can: of {forward.label}, recall@10 {recall_of(store, forward):.1%} among 120 rows, "
        f"about {expected:.0%} among all 124, below 90%. "
        "Where the content is gone, write both until more rows have true vectors."
    )
    assert report.steps[-2:] == (
        "4 rows were not bridged: way='bridge' does it all the same",
        f"not cut over: 4 rows have no vector of {new.label} and would not be found; use_encoder does it all the same",
    )
    assert [e.name for e in tickets.encoders] == ["old", "new"]
    assert tickets.encoder() == store.encoder("old")


def test_a_bridge_below_90_percent_is_fitted_anew_once_there_are_more_pairs(store: Store) -> None:
    tickets = both(store, "old")
    tickets.migrate("new", "bridge")
    first = store.encoder("new-from-old")
    assert tickets.migrate("new", "bridge").serves == first.label
    more(tickets, 120, 130)
    report = tickets.migrate("new", "bridge")
    second = store.encoder("new-from-old")
    assert second != first
    assert read_bridge(store.layout, second.fingerprint).facts["pairs"] == 130
    assert report.steps[1] == (
        f"{first.label} was fitted on 120 pairs, and there are 130 now: it is fitted anew; "
        f"retire_encoder('{first.label}') drops what it filled"
    )
    assert (report.serves, report.through, report.left) == (second.label, "new-from-old-back", 0)
    through = tickets.migrate("new", "through")
    assert [step for step in through.steps if "fitted" in step] == []
    assert tickets.retire_encoder(first.label).rows == 130 + len(GONE)


def test_a_few_rows_that_are_left_are_not_worth_a_map_that_takes_minutes_to_fit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    fit = run.build_bridge

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options["kinds"])
        return fit(*args, **options)

    monkeypatch.setattr(run, "build_bridge", noted)
    both(store, "old").migrate("new")
    assert asked == [("procrustes", "low-rank")]


def test_a_good_bridge_is_fitted_anew_once_there_are_twice_as_many_pairs(store: Store) -> None:
    tickets = both(store, "near")
    tickets.migrate("new", "bridge")
    first = store.encoder("new-from-near")
    more(tickets, 120, 239)
    assert tickets.migrate("new", "bridge").serves == first.label
    more(tickets, 239, 240)
    report = tickets.migrate("new", "bridge")
    second = store.encoder("new-from-near")
    assert read_bridge(store.layout, second.fingerprint).facts["pairs"] == 240
    assert (report.serves, report.left) == (second.label, 0)
    assert first != second


def test_a_bridge_that_is_usable_by_its_labels_alone_stays(store: Store) -> None:
    tickets = both(store, "old")
    labels = {f"t-{i}": TEXTS[i].split()[0] for i in range(120)}
    made = store.build_bridge("mine", "old", "new", collection="tickets", labels=labels)
    assert made.fidelity.recall < 0.9
    assert made.fidelity.measured.usable
    more(tickets, 120, 240)
    assert tickets.migrate("new", "bridge").serves == made.forward.label


def test_each_step_has_a_progress_of_its_own_name(store: Store) -> None:
    tickets = both(store, "near")
    titles: list[str] = []

    @contextmanager
    def shown(title: str) -> Iterator[None]:
        titles.append(title)
        yield None

    migrate(store.catalog, tickets.table, store.encoder("new"), store.key, shown=shown)
    new = store.encoder("new")
    assert titles == [f"embedding tickets with {new.label}", "fitting new-from-near", "bridging tickets"]
