"""One call from labelled files to a better encoder in use, on a tiny real model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystore.collection import Collection
from raystore.data.collection import CollectionTable
from raystore.errors import InvalidArguments
from raystore.improve import Improved, _recipe_for
from raystore.index.manifest import newest_number
from tests.fine_tune.tickets import QUICK, write_tickets
from tests.fine_tune.tuned import ASKED, Tuned

pytestmark = pytest.mark.model
POOL_ROWS = 40
# Learns next to nothing; without val the last step's weights are kept and not the base's.
IDLE: dict[str, Any] = {"steps": 1, "learning_rate": 1e-9, "split": {"train": 0.9, "val": 0.0, "test": 0.1}}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tickets(tmp_path_factory.mktemp("pool") / "pool.parquet", POOL_ROWS, seed=9, label=None, first=1_000)


def improved(tuned: Tuned, name: str, pool: Path | None = None, **more: Any) -> Improved:
    call: dict[str, Any] = {**ASKED, **QUICK, "name": name, "pool": pool, "recipe": "many-classes", **more}
    return tuned.store.improve(tuned.data, budget_minutes=5, **call)


def test_rows_and_pool_are_embedded_and_indexed_by_the_better_encoder_and_a_second_call_does_nothing_again(
    tuned: Tuned, pool: Path
) -> None:
    done = improved(tuned, "tiny-tickets", pool)
    assert (done.switched, done.collection, done.index) == (True, "tiny_tickets", 1)
    collection = tuned.store.collection("tiny_tickets")
    assert len(collection) == 360 + POOL_ROWS
    assert collection.encoder().fingerprint == done.encoder.fingerprint
    assert f"{done.run.proof.headline} Collection 'tiny_tickets' is asked by {done.encoder.label}." in str(done)
    again = improved(tuned, "tiny-tickets", pool)
    assert (again.run.record, again.index) == (done.run.record, 1)
    assert sum(report.added for report in again.embedded) == 0


def test_what_is_not_better_does_not_switch_and_the_collection_keeps_the_encoder_it_is_asked_by(tuned: Tuned) -> None:
    first = improved(tuned, "kept", seed=1)
    assert first.switched
    weak = improved(tuned, "kept", seed=1, steps=30)
    assert (weak.switched, weak.encoder) == (False, first.encoder)
    why = weak.run.state if weak.run.proof.better else weak.run.proof.headline
    assert weak.reason == f"Not switched. {why}"
    assert f"{weak.reason} Collection 'kept' stays with {first.encoder.label}." in str(weak)
    collection = tuned.store.collection("kept")
    assert collection.table.fingerprints == [first.encoder.fingerprint]
    assert tuned.store.encoders["kept"] == first.encoder


def test_where_nothing_is_better_a_new_collection_gets_the_base(tuned: Tuned) -> None:
    done = improved(tuned, "idle", **IDLE)
    assert (done.switched, done.encoder.label) == (False, tuned.store.encoders["tiny"].label)
    assert done.reason == f"Not switched. {done.run.proof.headline}"
    assert (len(tuned.store.collection("idle")), done.index) == (360, 1)
    assert done.run.record.fingerprint != done.encoder.fingerprint
    assert "idle" not in tuned.store.encoders


def test_a_reason_switches_even_so_and_is_kept(tuned: Tuned) -> None:
    done = improved(tuned, "forced", **IDLE, force="to see it in use")
    assert (done.switched, done.encoder) == (True, done.run.encoder)
    assert done.reason == f"Forced: to see it in use. {done.run.proof.headline}"


def test_what_is_the_base_itself_is_not_switched_to_for_any_reason(tuned: Tuned) -> None:
    done = improved(tuned, "same", steps=2, learning_rate=1e-12, proxy_learning_rate=1e-12, force="to see it in use")
    base = tuned.store.encoders["tiny"]
    assert done.run.record.fingerprint == base.fingerprint
    assert (done.switched, done.encoder, done.index) == (False, base, 1)
    assert done.reason == (
        "Not switched. Unchanged: no step was better than the base itself, so there is nothing to switch to."
    )
    assert f"{done.reason} Collection 'same' stays with {done.encoder.label}." in str(done)
    assert "same" not in tuned.store.encoders


def test_the_pool_is_trained_on_only_where_steps_on_it_are_asked_for(tuned: Tuned, pool: Path) -> None:
    done = improved(tuned, "pooled", pool, pretrain_steps=2, views=2, per_class=4)
    assert done.run.record.training.pretrained is not None
    assert done.run.record.training.pretrained.steps == 2
    plain = improved(tuned, "tiny-tickets", pool)
    assert plain.run.record.training.pretrained is None


def fails_once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, before: bool) -> None:
    """A kill before or after one step's work: nothing after it runs in this call."""
    work: Callable[..., Any] = getattr(where, name)

    def killed(*args: Any, **named: Any) -> Any:
        if not before:
            work(*args, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, killed)


@pytest.mark.parametrize(
    ("step", "before"),
    [
        ("raystore.fine_tune.run.publish_model", True),
        ("raystore.fine_tune.run.publish_model", False),
        ("raystore.fine_tune.run.prove", True),
        ("raystore.fine_tune.run.publish_run", True),
        ("raystore.fine_tune.run.publish_run", False),
        ("raystore.fine_tune.result.make_live", True),
        ("raystore.fine_tune.result.make_live", False),
    ],
)
def test_a_call_that_was_killed_while_it_tuned_goes_on(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    module, _, function = step.rpartition(".")
    name = f"killed-{function.replace('_', '-')}-{'before' if before else 'after'}"
    asked: dict[str, Any] = {"seed": 2, "steps": 60}
    with monkeypatch.context() as patch:
        fails_once(patch, importlib.import_module(module), function, before)
        with pytest.raises(KeyboardInterrupt):
            improved(tuned, name, **asked)
    done = improved(tuned, name, **asked)
    layout = tuned.store.layout
    assert done.switched
    assert [path.name for path in layout.models(name).iterdir()] == ["1"]
    assert [run.label for run in tuned.store.runs.of(name)] == [f"{name}@1"]
    assert not list((layout.tmp / "fine_tune").iterdir())
    assert [path.name for path in layout.aliases("encoder", name).iterdir()] == ["1.json"]


@pytest.mark.parametrize("step", ["add_encoder", "embed", "use_encoder", "build_index"])
def test_a_call_that_was_killed_while_it_moved_the_collection_goes_on(
    tuned: Tuned, pool: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    name = f"moved-{step.replace('_', '-')}"
    where = name.replace("-", "_")
    tuned.store.create_collection(where, encoder="tiny").embed(tuned.data, text="body", id="ticket", subject="shop")
    with monkeypatch.context() as patch:
        fails_once(patch, Collection, step, before=False)
        with pytest.raises(KeyboardInterrupt):
            improved(tuned, name, pool)
    done = improved(tuned, name, pool)
    collection = tuned.store.collection(where)
    assert (done.switched, done.index, len(collection)) == (True, 1, 360 + POOL_ROWS)
    assert collection.encoder() == done.encoder
    assert collection.table.count_lacking(done.encoder.fingerprint) == 0
    assert len(collection.encoder_history()) == 1


def test_what_a_kill_inside_the_fill_left_without_a_vector_is_filled_before_the_collection_is_switched(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    older = write_tickets(tmp_path / "older.parquet", 100, seed=3, label=None, first=3_000)
    collection = tuned.store.create_collection("half", encoder="tiny")
    for each in (tuned.data, older):
        collection.embed(each, text="body", id="ticket", subject="shop")
    old = collection.encoder()
    fill = CollectionTable.fill
    done_before: list[int] = []

    def killed(table: CollectionTable, rows: Any, *args: Any, **named: Any) -> Any:
        if done_before:
            raise KeyboardInterrupt
        done_before.append(len(rows))
        return fill(table, rows, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CollectionTable, "fill", killed)
        with pytest.raises(KeyboardInterrupt):
            improved(tuned, "half")
    new = tuned.store.encoders["half"]
    assert done_before == [360]
    assert (collection.encoder(), collection.table.count_lacking(new.fingerprint)) == (old, 100)
    done = improved(tuned, "half")
    assert (done.switched, done.encoder, done.index) == (True, new, 1)
    assert done.reason == done.run.proof.headline
    assert collection.encoder() == new
    assert collection.table.count_lacking(new.fingerprint) == 0


def test_a_collection_whose_logged_rows_would_be_lost_stays_with_its_encoder_until_they_are_bridged(tuned: Tuned) -> None:
    collection = tuned.store.create_collection("desk", encoder="tiny")
    collection.embed(tuned.data, text="body", id="ticket", subject="shop")
    collection.log(
        [{"id": f"call-{n}", "text": f"hello card of the world {'a b c d e f g h'[: n % 15]}"} for n in range(50)]
    )
    old = collection.encoder()
    for _ in range(2):
        done = improved(tuned, "desk")
        new = done.run.encoder
        assert (done.switched, done.encoder, done.index, done.run.live) == (False, old, 1, True)
        assert done.reason == (
            f"{done.run.proof.headline} Not switched: 50 rows have no vector of it, for their content is gone: "
            "`raystore encoder migrate desk --to desk --cut-over` bridges them, then it is asked by it."
        )
        assert f"{done.reason} Collection 'desk' stays with {old.label}." in str(done)
        assert collection.table.count_lacking(new.fingerprint) == 50
        assert (collection.encoder(), collection.encoder_history()) == (old, [])
        assert newest_number(tuned.store.layout, "desk", new.fingerprint) is None
    assert collection.migrate("desk", way="bridge", cut_over=True).cut_over
    bridge = collection.encoder()
    done = improved(tuned, "desk")
    assert (done.switched, done.encoder, collection.encoder()) == (False, bridge, bridge)
    assert done.reason == (
        f"{done.run.proof.headline} Not switched: 50 rows have no vector of it, for their content is gone; "
        f"they are found through the bridge to it, {bridge.label}, which asks with it already."
    )


def test_the_index_is_there_before_the_collection_is_asked_by_the_new_encoder(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = tuned.store.create_collection("indexed", encoder="tiny")
    old = collection.encoder()
    with monkeypatch.context() as patch:
        fails_once(patch, Collection, "use_encoder", before=True)
        with pytest.raises(KeyboardInterrupt):
            improved(tuned, "indexed")
    new = tuned.store.encoders["indexed"]
    assert collection.encoder() == old
    assert newest_number(tuned.store.layout, "indexed", new.fingerprint) == 1


def test_pairs_without_labels_are_trained_with_the_softmax_and_single_numbers_of_the_call_stay(tuned: Tuned) -> None:
    base, options = tuned.store.encoders["tiny"], {"text": "body", "pair": "answer"}
    assert _recipe_for("pairs", base, tuned.data, options) == {
        "losses": {"softmax": 1.0},
        "classes_per_batch": 64,
        "per_class": 1,
    }
    told = {**options, "losses": "multi-similarity", "per_class": 2}
    assert _recipe_for("pairs", base, tuned.data, told) == {"classes_per_batch": 64}


def test_few_rows_a_class_get_the_recipe_for_few_and_pictures_their_own(tuned: Tuned, tmp_path: Path) -> None:
    base = tuned.store.encoders["tiny"]
    few = write_tickets(tmp_path / "few.parquet", 30)
    assert _recipe_for("few", base, few, {"text": "body", "label": "topic"}) == {"recipe": "few-shot"}
    assert _recipe_for("many", base, tuned.data, {"text": "body", "label": "topic"}) == {"recipe": "many-classes"}
    assert _recipe_for("seen", base, tuned.data, {"image": "photo", "label": "topic"}) == {"recipe": "image"}


def test_pictures_have_no_default_base(tuned: Tuned) -> None:
    with pytest.raises(InvalidArguments) as refused:
        tuned.store.improve(tuned.data, image="photo", label="topic")
    assert str(refused.value) == (
        "improve: which encoder is to be improved? For images there is no default: register one and name it with base=."
    )


def test_what_fine_tune_takes_and_this_does_not_is_refused_with_all_else_that_is_wrong(tuned: Tuned) -> None:
    with pytest.raises(InvalidArguments) as refused:
        improved(tuned, "refused", dry_run=True, only_if_better=True, data=tuned.data, workers=-1, force="why not")
    assert str(refused.value) == (
        "improve: data= is not taken: the labelled files are given first, without a name; "
        "dry_run= is not taken: fine_tune(dry_run=True) takes 5 steps, writes nothing, and says memory, steps and time; "
        "only_if_better= is not taken: it never switches to what is not better, unless force= gives a reason; "
        "workers= is 0 (this process) or more, not -1."
    )
    assert "refused" not in tuned.store.collections
    with pytest.raises(InvalidArguments) as refused:
        tuned.store.improve(tuned.data, image="photo", label="topic", dry_run=True)
    assert str(refused.value) == (
        "improve: dry_run= is not taken: fine_tune(dry_run=True) takes 5 steps, writes nothing, and says memory, steps and time; "
        "which encoder is to be improved? For images there is no default: register one and name it with base=."
    )
