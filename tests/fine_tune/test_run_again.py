"""The gate of a run against what its name means, and the same call once more."""

from __future__ import annotations

from typing import Any

import pytest

from raystore.errors import InvalidArguments, JobFailed, NotBetter, TrainingDiverged
from raystore.fine_tune.prove import prove
from raystore.fine_tune.records import RunRecord, Runs, StoppedRun
from tests.fine_tune.tuned import Tuned

pytestmark = pytest.mark.model


def test_a_run_that_is_better_than_its_base_and_worse_than_what_the_name_means_is_refused(tuned: Tuned) -> None:
    weak = tuned.again(steps=30)  # half as many
    assert (weak.proof.verdict, weak.live, tuned.made.live) == ("better", False, True)
    standing = weak.record.against_standing
    assert standing is not None
    assert (standing.before, standing.after, standing.neighbours, standing.maps) == (
        tuned.made.encoder.label,
        weak.encoder.label,
        (),
        None,
    )
    assert standing.metrics["knn_accuracy"].before == tuned.made.proof.metrics["knn_accuracy"].after
    assert f" against {tuned.made.encoder.label}, which the name means" in weak.record.fell[0]
    assert weak.state == f"Not live: {'; '.join(weak.record.fell)}. The encoder is kept as {weak.encoder.fingerprint[:12]}."
    with pytest.raises(NotBetter, match=rf"\(against {tuned.made.encoder.label}, which the name means\) fell from"):
        weak.make_live()


def test_a_repeated_call_does_not_take_back_a_roll_back_even_if_it_is_forced(tuned: Tuned) -> None:
    first = tuned.again("rolled")
    second = tuned.again("rolled", seed=3, force="to be rolled back")
    assert second.live
    first.make_live(force="back to the first")
    again = tuned.again("rolled", seed=3, force="to be rolled back")
    assert (again.record, again.live, first.live) == (second.record, False, True)
    fp12, other = second.encoder.fingerprint[:12], first.encoder.fingerprint[:12]
    if not second.record.fell:
        assert again.state == (
            f"Not live: 'rolled' means {other} at present. It meant this one before, as {fp12}; make_live() gives it the name."
        )
    assert again.make_live(force="once more").live


def test_a_run_that_was_found_is_not_put_in_the_place_of_an_encoder_it_was_not_compared_with(tuned: Tuned) -> None:
    waits = tuned.again("waits", seed=7, require=["oos_head"])
    assert not waits.live
    tuned.store.catalog.set_alias("encoder", "waits", tuned.store.catalog.alias("encoder", "tiny-tickets") or {})
    again = tuned.again("waits", seed=7)
    assert (again.record.fell, again.live) == ((), False)
    fp12, other = waits.encoder.fingerprint[:12], tuned.made.encoder.fingerprint[:12]
    assert again.state == (
        f"Not live: 'waits' means {other} at present. This one is kept, as {fp12}; make_live() gives it the name."
    )


def test_what_is_required_now_judges_a_run_that_was_found(tuned: Tuned) -> None:
    assert tuned.made.record.require == ()
    unsaid = "oos_head is required, and these rows cannot say it"
    again = tuned.again(require=["precision", "oos_head"])
    assert (again.record.number, again.record.require, again.record.fell) == (1, ("precision", "oos_head"), (unsaid,))
    assert tuned.store.runs.get("tiny-tickets@1") == tuned.made.record


def test_what_is_required_and_cannot_be_measured_keeps_it_from_the_name_until_a_reason_is_given(tuned: Tuned) -> None:
    made = tuned.again("unsaid", require=["oos_head"], only_if_better=True)
    fp12 = made.encoder.fingerprint[:12]
    assert (made.proof.verdict, made.live) == ("better", False)
    assert made.state == f"Not live: oos_head is required, and these rows cannot say it. The encoder is kept as {fp12}."
    with pytest.raises(NotBetter) as refused:
        tuned.store.run("unsaid@1").make_live()
    assert str(refused.value) == (
        "encoder 'unsaid' was not made live: these rows cannot say 'oos_head', which must not fall. The encoder is kept under its "
        "fingerprint and run. Train again, or give a reason that is kept: force='...'."
    )
    forced = tuned.again("unsaid", require=["oos_head"], only_if_better=True, force="there is no such label here")
    assert (forced.live, forced.record.number) == (True, 1)
    assert tuned.store.runs.decisions(made.record)[0]["proof"]["require"] == ["oos_head"]


def test_rows_that_are_to_be_shown_are_shown_of_a_run_that_was_found_too(tuned: Tuned) -> None:
    shown = [asked.id for asked in tuned.made.proof.neighbours]
    other = next(id_ for id_ in tuned.made.proof.maps.ids if id_ not in shown)  # type: ignore[union-attr]
    again = tuned.again(show=[other, "t-none"])
    assert [asked.id for asked in again.proof.neighbours] == [other]
    assert again.record.number == 1
    assert "The neighbours of 't-none' are not shown: the proof has no such row on its test side." in str(again)
    assert again.proof.metrics == tuned.made.proof.metrics


def test_a_run_that_an_alarm_stopped_is_a_record_without_an_encoder_and_is_trained_again(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> None:
        raise TrainingDiverged(step=7, found="its loss is not a number", learning_rate=3e-3, kept=6)

    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.loop.watch.Watch.look", explode)  # no setting makes a tiny BERT explode
        with pytest.raises(TrainingDiverged) as stopped:
            tuned.again("exploded")
    [run] = tuned.store.runs.of("exploded")
    assert isinstance(run, StoppedRun)
    assert (run.reason, run.training.steps, run.training.best_step) == (str(stopped.value), 7, 6)
    assert (run.data["columns"]["text"], run.training.points[0].step) == ("body", 0)
    made = tuned.made.record.data  # of the same rows
    assert {name: value for name, value in run.data.items() if name != "split"} == {
        name: value for name, value in made.items() if name != "split"
    }
    assert len(run.data["digest"]) == 64
    with pytest.raises(InvalidArguments) as refused:
        tuned.store.run("exploded")
    assert str(refused.value) == (
        f"run('exploded'): exploded@1 has no encoder, only a record (runs.get('exploded@1')): {stopped.value}"
    )
    assert tuned.store.runs.get("exploded@1") == tuned.store.runs.shown("exploded") == run
    assert tuned.again("exploded").record.label == "exploded@2"
    assert [type(each) for each in tuned.store.runs.of("exploded")] == [StoppedRun, RunRecord]
    assert tuned.store.run("exploded").record.number == 2
    assert [tuned.store.runs.shown(each).number for each in ("exploded", "exploded@1")] == [2, 1]


def test_a_run_whose_best_weights_are_those_of_the_base_is_unchanged_and_no_name_means_it_whatever_the_reason(
    tuned: Tuned,
) -> None:
    asked: dict[str, Any] = {"steps": 2, "learning_rate": 1e-12, "proxy_learning_rate": 1e-12}
    said = "no step was better than the base itself, so there is nothing to switch to"
    for force in (None, "to see it in use"):
        made = tuned.again("same", force=force, **asked)
        assert (made.record.training.best_step, made.encoder.fingerprint) == (0, tuned.store.encoders["tiny"].fingerprint)
        assert (made.proof.verdict, made.live, made.state) == ("not better", False, f"Unchanged: {said}.")
        assert "same" not in tuned.store.encoders
    with pytest.raises(InvalidArguments) as refused:
        made.make_live(force="to see it in use")
    base = tuned.store.encoders["tiny"].label
    assert str(refused.value) == f"make 'same' live: same@1 is its base, {base}, unchanged: {said}."
    own = tuned.again("tiny-tickets", base="tiny-tickets", **asked)
    assert own.encoder == tuned.made.encoder
    assert (own.live, own.state, tuned.made.live) == (False, f"Unchanged: {said}.", True)


class KilledError(RuntimeError):
    """Stands in for a kill."""


def killed(*_: Any, **__: Any) -> None:
    raise KilledError


def test_the_same_data_under_another_name_is_a_run_of_its_own(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.run.prove", killed)
        with pytest.raises(KilledError):
            tuned.again("first-name", seed=11)
    layout = tuned.store.layout
    second = tuned.again("second-name", seed=11)
    assert (second.record.label, second.record.model) == ("second-name@1", 1)
    assert [path.name for path in layout.models("second-name").iterdir()] == ["1"]
    [left] = (layout.tmp / "fine_tune").iterdir()
    assert left.name.startswith("first-name-")
    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.loop.work.train", killed)  # its own training is not taken once more
        first = tuned.again("first-name", seed=11)
    assert (first.record.label, first.record.model) == ("first-name@1", 1)
    assert [path.name for path in layout.models("first-name").iterdir()] == ["1"]


def test_the_same_call_is_refused_until_the_first_one_has_published_its_record(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []

    def meanwhile(*args: Any, **options: Any) -> Any:
        with pytest.raises(JobFailed) as error:
            tuned.again("twice", seed=13)
        refused.append(str(error.value))
        return prove(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.run.prove", meanwhile)
        made = tuned.again("twice", seed=13)
    assert refused == ["fine-tuning failed: another process trains the same at this moment. Wait for it."]
    assert [run.label for run in tuned.store.runs.of("twice")] == [made.record.label] == ["twice@1"]
    assert [path.name for path in tuned.store.layout.models("twice").iterdir()] == ["1"]


def test_a_run_that_another_process_published_while_this_one_began_is_found(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds, asked = Runs.with_key, list[str]()

    def late(runs: Runs, name: str, key: str) -> RunRecord | None:
        asked.append(key)
        return finds(runs, name, key) if len(asked) > 1 else None

    monkeypatch.setattr(Runs, "with_key", late)
    monkeypatch.setattr("raystore.fine_tune.run.fit", killed)
    assert tuned.again().record == tuned.made.record
    assert len(asked) == 2
    assert not list((tuned.store.layout.tmp / "fine_tune").iterdir())


def test_what_a_killed_call_left_behind_goes_when_its_record_is_found(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("raystore.fine_tune.run.forget", lambda _: None)
        tuned.again("left")
    folder = tuned.store.layout.tmp / "fine_tune"
    assert len(list(folder.iterdir())) == 1
    tuned.again("left")
    assert not list(folder.iterdir())
