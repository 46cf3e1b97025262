"""A fine-tuning from the call to the live name, on a tiny real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import raystore
from raystore.errors import InvalidArguments, NotBetter, RunNotFound
from raystore.fine_tune.loop.points import Point
from raystore.fine_tune.run import _reported
from tests.fine_tune.tickets import QUICK
from tests.fine_tune.tuned import ASKED, Tuned

pytestmark = pytest.mark.model


def test_the_tuned_encoder_is_better_on_rows_it_did_not_see_and_its_name_means_it(tuned: Tuned) -> None:
    proof = tuned.made.proof
    assert (proof.verdict, tuned.made.live) == ("better", True)
    assert proof.metrics["knn_accuracy"].after > proof.metrics["knn_accuracy"].before + 0.2
    assert (
        tuned.store.encoders["tiny-tickets"].fingerprint
        == tuned.made.encoder.fingerprint
        != tuned.store.encoders["tiny"].fingerprint
    )
    assert tuned.made.encoder.encode(["the card never arrived"]).shape == (1, 32)


def test_the_record_says_what_was_done_and_holds_no_text(tuned: Tuned) -> None:
    record = tuned.store.runs.get("tiny-tickets@1")
    assert (record.label, record.base, record.recipe.steps) == ("tiny-tickets@1", tuned.store.encoders["tiny"].label, 60)
    assert record.data["rows"]["train"] + record.data["rows"]["val"] + record.data["rows"]["test"] == 360
    assert record.data["columns"] == {"text": "body", "label": "topic", "id": "ticket", "subject": "shop"}
    assert len(record.data["digest"]) == 64
    assert record.libraries["raystore"] == raystore.__version__
    assert "torch" in record.libraries
    assert record.training.points[-1].loss is not None
    folder = tuned.store.layout.runs("tiny-tickets") / "1"
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"arrived" not in written
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert (folder / "points.csv").read_text().splitlines()[0].startswith("step,steps,phase,seconds")


def test_the_same_call_finds_the_finished_run_and_trains_nothing(tuned: Tuned) -> None:
    again = tuned.store.fine_tune("tiny-tickets", data=tuned.data, **ASKED, **QUICK)
    assert again.record == tuned.made.record
    assert [run.label for run in tuned.store.runs.of("tiny-tickets")] == ["tiny-tickets@1"]
    assert not list((tuned.store.layout.tmp / "fine_tune").iterdir())


def test_a_killed_call_goes_on_from_the_published_model(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(RuntimeError):
        """Stands in for a kill between the model and its proof."""

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.run.prove", killed)
        with pytest.raises(KilledError):
            tuned.store.fine_tune("tiny-killed", data=tuned.data, **ASKED, **{**QUICK, "seed": 5})
    made = tuned.store.fine_tune("tiny-killed", data=tuned.data, **ASKED, **{**QUICK, "seed": 5})
    assert made.record.model == 1
    assert [path.name for path in tuned.store.layout.models("tiny-killed").iterdir()] == ["1"]


def test_the_bar_is_told_the_loss_and_the_accuracy_that_was_looked_at_last() -> None:
    told: list[tuple[int, int | None, str]] = []
    report = _reported(lambda done, total, words: told.append((done, total, words)))
    report(Point(2, 4, "pretrain", 0.1, loss=2.0))
    report(Point(0, 9, "train", 0.2, val_accuracy=0.5))
    report(Point(3, 9, "train", 0.3, loss=1.2341, val_accuracy=0.567))
    report(Point(4, 9, "train", 0.4, loss=1.1))
    assert told == [
        (2, 4, "loss 2.000, pre-training"),
        (0, 9, "kNN of val 50.0%"),
        (3, 9, "loss 1.234, kNN of val 56.7%"),
        (4, 9, "loss 1.100, kNN of val 56.7%"),
    ]


def test_a_store_that_was_moved_still_loads_what_was_tuned_in_it(tuned: Tuned, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tuned.store.root, tmp_path / "moved")
    moved = raystore.open(tmp_path / "moved")
    texts = ["the card never arrived"]
    assert (moved.encoders["tiny-tickets"].encode(texts) == tuned.made.encoder.encode(texts)).all()


def test_what_fell_stays_out_of_the_name_unless_a_reason_is_given(tuned: Tuned) -> None:
    worse = {
        **QUICK,
        "steps": 3,
        "patience": 99,
        "learning_rate": 0.5,
        "evaluate_every": 3,
        "split": {"train": 0.6, "val": 0.0, "test": 0.4},
    }
    asked = {**ASKED, "base": "tiny-tickets"}
    made = tuned.store.fine_tune("tiny-worse", data=tuned.data, **asked, **worse)
    assert (made.proof.verdict, made.live) == ("not better", False)
    assert "tiny-worse" not in tuned.store.encoders
    assert made.record.fell[0].startswith("linear head accuracy fell from ")
    assert "Not live: " in str(made)
    with pytest.raises(NotBetter, match="encoder 'tiny-worse' was not made live: its "):
        made.make_live()
    forced = made.make_live(force="the old one is being retired")
    assert forced.live
    assert "It was forced: the old one is being retired" in str(forced)
    assert tuned.store.runs.decisions(made.record)[0]["reason"] == "the old one is being retired"


def test_everything_wrong_with_a_call_is_said_at_once(tuned: Tuned) -> None:
    with pytest.raises(InvalidArguments) as caught:
        tuned.store.fine_tune(
            "bad",
            base="tiny",
            data=tuned.data,
            text="words",
            label="topic",
            recipe="best",
            require=["speed"],
            workers=-1,
            learning_rat=1,
        )
    assert str(caught.value) == (
        "fine_tune('bad'): recipe= is one of few-shot, many-classes, domain, image, not 'best'; "
        "there is no setting 'learning_rat' (did you mean 'learning_rate'?); workers= is 0 (this process) or more, not -1; "
        "require= names 'speed', expected some of knn_accuracy, precision, precision_unseen, head_accuracy, silhouette, "
        f"oos_neighbours, oos_head; '{tuned.data}' has no column 'words' (text=); it has: ticket, shop, body, topic."
    )


def test_a_run_that_is_not_there_is_named_with_those_that_are(tuned: Tuned) -> None:
    with pytest.raises(RunNotFound, match="no run 'tiny-tickets@9' in store"):
        tuned.store.run("tiny-tickets@9")


def test_a_dry_run_takes_real_steps_and_writes_nothing(tuned: Tuned) -> None:
    before = sorted(p for p in tuned.store.root.rglob("*") if "tmp" not in p.parts)
    tried = tuned.store.fine_tune("tiny-dry", data=tuned.data, dry_run=True, **ASKED, **QUICK)
    assert (tried.steps, tried.batch_rows) == (60, 24)
    assert tried.step_s > 0
    assert sorted(p for p in tuned.store.root.rglob("*") if "tmp" not in p.parts) == before


def test_the_page_is_one_file_with_ids_and_no_text(tuned: Tuned) -> None:
    page = tuned.made.to_html()
    assert page.startswith("<!doctype html>")
    assert "t-0" in page
    assert "arrived" not in page
    assert json.loads(json.dumps(tuned.made.to_dict()))["live"] is True
