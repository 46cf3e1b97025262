"""Promotion and roll-back: a new record each, and what the gate says before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

import raystore
from raystore.errors import DeploymentNotFound, GateHeld, HeadNotFound, InvalidArguments, PassportMismatch
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import Predictions
from raystore.serve.operate.operations import Operations
from raystore.serve.operate.promote import Promoted, promote, rollback
from raystore.serve.recording.recorder import Recorder
from raystore.serve.shadow.report import ShadowReport
from raystore.serve.spec.alias import next_place, settle
from raystore.serve.spec.apart import tell_apart
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import (
    DeploymentRecord,
    HeadRef,
    ShadowRef,
    deployment_history,
    deployment_records,
    publish_record,
)
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.metrics import Metrics
from tests.serve.conftest import Served, recorded
from tests.serve.kept_rows import said


@pytest.fixture(scope="module")
def rooms(served: Served) -> Rooms:
    return served.rooms


def present(rooms: Rooms, name: str) -> DeploymentRecord:
    return deployment_records(rooms.catalog)[name]


def heads(record: DeploymentRecord) -> tuple[str, list[str], str | None]:
    return record.head, [each.head for each in record.shadow], record.canary.head if record.canary else None


def seen(rooms: Rooms, name: str, live: str, shadow: str, answers: list[tuple[str, str]]) -> None:
    """Kept predictions of a live head and its shadow."""
    kept = Predictions.open_or_create(rooms.catalog, name)
    kept.append(said(live, [a for a, _ in answers]))
    kept.append(said(shadow, [b for _, b in answers], role="shadow"))


def test_a_shadow_is_promoted_and_what_answered_becomes_its_shadow(rooms: Rooms) -> None:
    rules = {"after": [{"name": "unsure", "least": {"*": 0.1}}]}
    more: dict[str, Any] = {
        "shadow": [{"head": "refunds@2", "sample": 0.5}], "log": {"collection": "tickets", "sample": 0.5}, "rules": rules,
        "review": "reviewed", "keep": ["product"],
    }  # fmt: skip
    before = recorded(rooms, "o-plain", "refunds@1", **more)
    done = promote(rooms, "refunds@2", deployment="o-plain")
    assert done.model_dump() == {
        "deployment": "o-plain", "number": 2, "before": "refunds@1", "after": "refunds@2",
        "why": "promoted refunds@2 over refunds@1", "alias": None, "file_names": "refunds@1", "verdict": None,
    }  # fmt: skip
    record = present(rooms, "o-plain")
    assert heads(record) == ("refunds@2", ["refunds@1"], None)
    assert (record.log, record.rules, record.review, record.keep) == (before.log, before.rules, before.review, before.keep)
    assert (record.number, record.asked, record.why) == (2, "refunds@2", done.why)


def test_the_alias_that_the_file_names_moves_with_the_promotion_and_its_deploy_changes_nothing(rooms: Rooms) -> None:
    rooms.heads.set_alias("refunds", "olive", 1)
    file = {"shadow": ["refunds@2"], "log": "tickets"}
    recorded(rooms, "o-alias", "refunds@olive", **file)
    done = promote(rooms, "refunds@2", deployment="o-alias")
    assert (done.alias, done.file_names) == ("refunds@olive", None)
    assert rooms.heads.get("refunds@olive").number == 2
    again = recorded(rooms, "o-alias", "refunds@olive", **file)
    assert heads(again) == ("refunds@2", [], None), "the file's shadow answers now, so it is none of its own"
    back = rollback(rooms, "o-alias")
    assert (back.before, back.after, back.alias) == ("refunds@2", "refunds@1", "refunds@olive")
    assert rooms.heads.get("refunds@olive").number == 1


def test_a_canary_is_promoted_and_is_none_any_more(rooms: Rooms) -> None:
    recorded(rooms, "o-canary", "refunds@1", canary={"head": "refunds@2", "percent": 5})
    assert promote(rooms, "refunds@2", deployment="o-canary").after == "refunds@2"
    assert heads(present(rooms, "o-canary")) == ("refunds@2", ["refunds@1"], None)


def test_a_shadow_passes_a_gate_that_holds(rooms: Rooms) -> None:
    recorded(rooms, "o-passes", "refunds@1", shadow=["refunds@2"])
    seen(rooms, "o-passes", "refunds@1", "refunds@2", [("card", "card")] * 40)
    gate = "agreement > .97 and n_paired >= 40"
    done = promote(rooms, "refunds@2", gate=gate, deployment="o-passes", reports=Operations(rooms).reports)
    assert done.why == "promoted refunds@2 over refunds@1: agreement > 0.97 and n_paired >= 40"
    assert done.verdict is not None
    assert done.verdict.passed
    assert present(rooms, "o-passes").why == done.why


def test_a_gate_that_does_not_hold_says_by_how_much_and_nothing_is_changed(rooms: Rooms) -> None:
    recorded(rooms, "o-held", "refunds@1", shadow=["refunds@2"])
    seen(rooms, "o-held", "refunds@1", "refunds@2", [("card", "card")] * 30 + [("card", "money")] * 10)
    reports = Operations(rooms).reports
    with pytest.raises(GateHeld) as held:
        promote(rooms, "refunds@2", gate="agreement > .97", deployment="o-held", reports=reports)
    assert str(held.value) == (
        "head 'refunds@2' is not promoted: agreement > 0.97 does not hold (agreement > 0.97 with agreement = 0.75). "
        "Nothing was changed."
    )
    with pytest.raises(GateHeld) as untold:
        promote(rooms, "refunds@2", gate="accuracy_gain.low > 0", deployment="o-held", reports=reports)
    assert str(untold.value) == (
        "head 'refunds@2' is not promoted: accuracy_gain.low > 0 does not hold (accuracy_gain.low has no value: "
        "it needs labels, and none were named (labels, or --labels: outcomes.outcome)). Nothing was changed."
    )
    assert [each.number for each in deployment_history(rooms.catalog, "o-held")] == [1]


def test_a_gate_before_anything_was_seen_does_not_hold(rooms: Rooms) -> None:
    recorded(rooms, "o-unseen", "refunds@1", shadow=["refunds@2"])
    with pytest.raises(GateHeld) as held:
        promote(rooms, "refunds@2", gate="agreement > .5", deployment="o-unseen", reports=Operations(rooms).reports)
    assert str(held.value) == (
        "head 'refunds@2' is not promoted: agreement > 0.5 does not hold (no request was seen by both it and the live head). "
        "Nothing was changed."
    )
    with pytest.raises(InvalidArguments, match="is no figure of a shadow report"):
        promote(rooms, "refunds@2", gate="agreemnet > .5", deployment="o-unseen", reports=Operations(rooms).reports)
    assert present(rooms, "o-unseen").head == "refunds@1"


def test_what_is_no_shadow_is_not_promoted(rooms: Rooms) -> None:
    recorded(rooms, "o-none", "refunds@1", shadow=["refunds@2"])
    with pytest.raises(InvalidArguments) as answering:
        promote(rooms, "refunds@1", deployment="o-none")
    assert str(answering.value) == "promote 'refunds@1': it answers already in o-none: there is nothing to promote."
    with pytest.raises(HeadNotFound):
        promote(rooms, "refunds@77", deployment="o-none")
    with pytest.raises(DeploymentNotFound) as nobody:
        promote(rooms, "refunds@2", deployment="o-nobody")
    assert "no deployment 'o-nobody' in store" in str(nobody.value)


def test_where_no_deployment_has_a_shadow_or_canary_a_promotion_says_how_to_come_by_one(
    served: Served, tmp_path: Any, tiny_model: Any
) -> None:
    from tests.serve.conftest import make_store

    rooms = make_store(tmp_path / "a store", tiny_model).rooms
    recorded(rooms, "alone", "refunds@1")
    for name, whose in ((None, "any deployment"), ("alone", "deployment 'alone'")):
        with pytest.raises(InvalidArguments) as none:
            promote(rooms, "refunds@2", deployment=name)
        assert str(none.value) == (
            f"promote 'refunds@2': there is no shadow or canary of {whose}; name refunds@2 in shadow: or canary: of its file, "
            "and deploy it first."
        )


def test_a_shadow_of_several_deployments_is_promoted_where_one_is_named(
    served: Served, tmp_path: Any, tiny_model: Any
) -> None:
    from tests.serve.conftest import make_store

    rooms = make_store(tmp_path / "a store", tiny_model).rooms
    for name in ("one", "two"):
        recorded(rooms, name, "refunds@1", shadow=["refunds@2"])
    with pytest.raises(InvalidArguments) as several:
        promote(rooms, "refunds@2")
    assert str(several.value) == (
        "promote 'refunds@2': refunds@2 is a shadow of several deployments: one, two; name one with deployment=."
    )
    promote(rooms, "refunds@2", deployment="two")
    assert (present(rooms, "one").head, present(rooms, "two").head) == ("refunds@1", "refunds@2")
    assert promote(rooms, "refunds@2").deployment == "one", "it is a shadow of one alone now"
    with pytest.raises(InvalidArguments, match=r"it answers already in .*one, two"):
        promote(rooms, "refunds@2")
    with pytest.raises(HeadNotFound):
        promote(rooms, "refunds@77")


def test_a_shadow_of_another_encoder_is_not_promoted_over_a_log_that_does_not_keep_its_vectors(house: Served) -> None:
    rooms = house.rooms
    recorded(rooms, "o-log", "refunds@1", shadow=["colours@1"], log="kept")
    with pytest.raises(PassportMismatch) as misfit:
        promote(rooms, "colours@1", deployment="o-log")
    assert "the log of deployment 'o-log', which holds what head 'colours@1' encodes," in str(misfit.value)
    assert present(rooms, "o-log").number == 1


def test_rolling_back_brings_the_head_before_and_rolling_back_again_the_one_after(rooms: Rooms) -> None:
    recorded(rooms, "o-back", "refunds@1", shadow=["refunds@2"], keep=["product"])
    promote(rooms, "refunds@2", deployment="o-back")
    back = rollback(rooms, "o-back")
    assert (back.number, back.before, back.after, back.why) == (
        3, "refunds@2", "refunds@1", "rolled back from refunds@2 to refunds@1, record 1",
    )  # fmt: skip
    assert heads(present(rooms, "o-back")) == ("refunds@1", ["refunds@2"], None)
    forth = rollback(rooms, "o-back")
    assert (forth.number, forth.after) == (4, "refunds@2")
    first = rollback(rooms, "o-back", to=1)
    assert (first.number, first.after) == (5, "refunds@1")
    history = deployment_history(rooms.catalog, "o-back")
    assert [each.head for each in history] == ["refunds@1", "refunds@2", "refunds@1", "refunds@2", "refunds@1"]
    assert history[0].why is None


def test_a_roll_back_brings_heads_back_and_leaves_rules_log_and_review_as_they_are_now(rooms: Rooms) -> None:
    recorded(rooms, "o-rules", "refunds@1", shadow=["refunds@2"])
    promote(rooms, "refunds@2", deployment="o-rules")
    block = {"before": [{"name": "blocked", "when": "subject = 'c-9'", "refuse": "no"}]}
    recorded(rooms, "o-rules", "refunds@2", rules=block, review="looked_at", keep=["product"])
    rollback(rooms, "o-rules")
    now = deployment_records(rooms.catalog)["o-rules"]
    assert (now.head, [each.head for each in now.shadow]) == ("refunds@1", ["refunds@2"])
    assert [rule.name for rule in now.rules.before] == ["blocked"]
    assert now.review is not None
    assert (now.review.table, now.keep) == ("looked_at", ("product",))


def test_there_must_be_a_record_to_return_to(rooms: Rooms) -> None:
    recorded(rooms, "o-first", "refunds@1")
    for to, wanted in ((None, "an earlier record with another head"), (7, "record 7")):
        with pytest.raises(InvalidArguments) as nothing:
            rollback(rooms, "o-first", to=to)
        assert str(nothing.value) == f"rollback 'o-first': there is no {wanted}; there are: 1 (refunds@1)."
    with pytest.raises(DeploymentNotFound):
        rollback(rooms, "o-nobody")


def test_a_rule_that_is_deployed_while_a_head_is_promoted_stays(rooms: Rooms) -> None:
    recorded(rooms, "o-race", "refunds@1", shadow=["refunds@2"])
    seen(rooms, "o-race", "refunds@1", "refunds@2", [("card", "card")] * 3)
    block = {"before": [{"name": "blocked", "when": "subject = 'c-9'", "refuse": "no"}]}
    asked: list[str] = []

    def reports(name: str) -> list[ShadowReport]:
        """Somebody deploys while the gate is looked at for the first time."""
        if not asked:
            recorded(rooms, "o-race", "refunds@1", shadow=["refunds@2"], rules=block)
        asked.append(name)
        return Operations(rooms).reports(name)

    done = promote(rooms, "refunds@2", deployment="o-race", gate="n_paired >= 3", reports=reports)
    assert (done.number, asked) == (3, ["o-race", "o-race"]), "the gate is asked anew of the newer record"
    record = present(rooms, "o-race")
    assert heads(record) == ("refunds@2", ["refunds@1"], None)
    assert [rule.name for rule in record.rules.before] == ["blocked"]


def test_many_who_change_a_deployment_at_once_undo_nothing_of_each_other(rooms: Rooms) -> None:
    recorded(rooms, "o-many", "refunds@1", shadow=["refunds@2"])
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(rollback if i % 2 else promote_other, rooms, "o-many") for i in range(12)]
        numbers = [each.result(60).number for each in done if each.exception() is None]
    history = deployment_history(rooms.catalog, "o-many")
    assert sorted([1, *numbers]) == [each.number for each in history] == list(range(1, len(history) + 1))
    for before, after in pairwise(history):
        assert {after.head, *(each.head for each in after.shadow)} == {"refunds@1", "refunds@2"}
        assert after.head != before.head, "each was made from the record before it"


def promote_other(rooms: Rooms, name: str) -> Promoted:
    """Promote whatever is in shadow; HeadNotFound where another did so first."""
    return promote(rooms, present(rooms, name).shadow[0].head, deployment=name)


def cut_off(rooms: Rooms, name: str, head: str) -> DeploymentRecord:
    """A promotion by alias whose process died after its record was published."""
    before = present(rooms, name)
    new = rooms.resolved(name, DeploymentSpec.model_validate({"head": head, "shadow": [before.head]}))
    place = next_place(rooms.catalog, before.asked, head)
    published = publish_record(
        rooms.catalog,
        new.model_copy(update={"asked": before.asked, "why": "promoted", "alias_record": place}),
        over=before.number,
    )
    assert published is not None
    return published


def test_an_alias_that_a_promotion_was_kept_from_moving_is_moved_by_who_comes_next(rooms: Rooms) -> None:
    rooms.heads.set_alias("refunds", "oak", 1)
    file = {"shadow": ["refunds@2"]}
    recorded(rooms, "o-cut", "refunds@oak", **file)
    assert cut_off(rooms, "o-cut", "refunds@2").number == 2
    assert rooms.heads.aliases("refunds")["oak"] == 1
    again = recorded(rooms, "o-cut", "refunds@oak", **file)
    assert (again.head, rooms.heads.aliases("refunds")["oak"]) == ("refunds@2", 2), "the next deploy does not undo it"
    rollback(rooms, "o-cut")
    cut_off(rooms, "o-cut", "refunds@2")
    back = rollback(rooms, "o-cut")
    assert (back.after, back.alias, rooms.heads.aliases("refunds")["oak"]) == ("refunds@1", "refunds@oak", 1)
    cut_off(rooms, "o-cut", "refunds@2")
    rooms.records(AppSpec())
    assert rooms.heads.aliases("refunds")["oak"] == 2, "any deploy looks at every deployment's alias"
    rollback(rooms, "o-cut")
    recorder = Recorder(rooms, Watch(), Metrics("recording"))
    recorder.update({"o-cut": cut_off(rooms, "o-cut", "refunds@2")})
    assert rooms.heads.aliases("refunds")["oak"] == 2, "so does a running service"
    recorder.close()


def test_an_alias_that_somebody_moved_since_is_left_where_it_is(rooms: Rooms) -> None:
    rooms.heads.set_alias("refunds", "ash", 1)
    recorded(rooms, "o-moved", "refunds@ash", shadow=["refunds@2"])
    cut_off(rooms, "o-moved", "refunds@2")
    rooms.heads.drop_alias("refunds", "ash")
    settle(rooms.catalog, "o-moved")
    assert "ash" not in rooms.heads.aliases("refunds")


def test_a_record_is_published_over_the_one_it_was_made_from_or_not_at_all(rooms: Rooms) -> None:
    first = recorded(rooms, "o-over", "refunds@1")
    assert publish_record(rooms.catalog, first, over=0) is None
    second = publish_record(rooms.catalog, first, over=1)
    assert second is not None
    assert (second.number, publish_record(rooms.catalog, first, over=1)) == (2, None)


def test_a_deployment_with_as_many_shadows_as_may_be_has_no_room_for_the_head_that_answered(rooms: Rooms) -> None:
    before = recorded(rooms, "o-full", "refunds@1", canary={"head": "refunds@2", "percent": 5})
    facts = {name: getattr(before, name) for name in HeadRef.model_fields}
    shadows = tuple(ShadowRef(**{**facts, "head": f"others@{n}"}, sample=1) for n in range(1, 17))
    publish_record(rooms.catalog, before.model_copy(update={"shadow": shadows}), over=1)
    with pytest.raises(InvalidArguments) as full:
        promote(rooms, "refunds@2", deployment="o-full")
    assert str(full.value) == (
        "promote 'refunds@2': deployment 'o-full' would have 17 shadows then, with refunds@1 among them, and 16 are the most: "
        "take one out of its file, deploy it, and promote again."
    )
    assert present(rooms, "o-full").number == 2


def test_a_report_beside_a_head_that_answers_no_more_passes_no_gate(house: Served) -> None:
    rooms = house.rooms
    recorded(rooms, "o-stale", "refunds@1", shadow=["refunds@2"])
    seen(rooms, "o-stale", "refunds@1", "refunds@2", [("card", "card")] * 9)
    recorded(rooms, "o-stale", "colours@1", shadow=["refunds@2"])
    with pytest.raises(GateHeld) as held:
        promote(rooms, "refunds@2", gate="agreement > .5", deployment="o-stale", reports=Operations(rooms).reports)
    assert held.value.found == "no request was seen by both it and the live head"


def test_a_head_whose_encoder_the_service_has_no_place_for_is_not_promoted(house: Served) -> None:
    rooms = house.rooms
    tiny, photos = (rooms.encoders.get(name) for name in ("tiny", "photos"))
    recorded(rooms, "o-apart", "refunds@1", shadow=["colours@1"])
    tell_apart(rooms.catalog, [tiny.fingerprint])
    try:
        with pytest.raises(InvalidArguments) as nowhere:
            promote(rooms, "colours@1", deployment="o-apart")
        assert str(nowhere.value) == (
            f"promote 'o-apart': colours@1 reads with {photos.label}, and the service, which runs its encoders as deployments of "
            "their own, has none for it: name photos under encoders: in the deployment file, deploy that, and repeat this."
        )
        assert present(rooms, "o-apart").number == 1
        tell_apart(rooms.catalog, [tiny.fingerprint, photos.fingerprint])
        assert promote(rooms, "colours@1", deployment="o-apart").after == "colours@1"
        tell_apart(rooms.catalog, [photos.fingerprint])
        with pytest.raises(InvalidArguments, match=f"rollback 'o-apart': refunds@1 reads with {tiny.label}"):
            rollback(rooms, "o-apart")
    finally:
        tell_apart(rooms.catalog, None)
    assert rollback(rooms, "o-apart").after == "refunds@1", "where the ingress takes any encoder, any head may answer"


def test_the_store_has_its_deployments_with_their_history_reports_and_promotions(served: Served) -> None:
    rooms = served.rooms
    recorded(rooms, "o-store", "refunds@1", shadow=["refunds@2"])
    seen(rooms, "o-store", "refunds@1", "refunds@2", [("card", "card")] * 9 + [("card", "money")])
    store = raystore.open(served.root, create=False)
    assert "o-store" in list(store.deployments)
    assert store.deployments["o-store"].head == "refunds@1"
    [report] = store.deployments.reports("o-store")
    assert (report.n_paired, report.agreement.value if report.agreement else None) == (10, 0.9)
    labels = store.sql("SELECT 'r9' AS id, 'money' AS label").to_arrow()
    [labelled] = store.deployments.reports("o-store", labels=labels)
    assert labelled.n_labelled == 1
    done = store.deployments.promote("refunds@2", deployment="o-store", gate="agreement >= .9")
    assert done.number == 2
    assert [each.why for each in store.deployments.history("o-store")] == [
        None, "promoted refunds@2 over refunds@1: agreement >= 0.9",
    ]  # fmt: skip
    assert store.deployments.rollback("o-store").after == "refunds@1"
    with pytest.raises(DeploymentNotFound) as missing:
        store.deployments.get("o-nobody")
    assert f"no deployment 'o-nobody' in store '{served.root}'." in str(missing.value)
    with pytest.raises(InvalidArguments, match="it has no review queue"):
        store.deployments.review("o-store")
