"""`raystore serve check`: what a file would run, and everything that does not fit, before anything is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from raystore.data.tables.table import register_table
from raystore.errors import InvalidArguments, NotFound, PassportMismatch
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.check import Check, Node, brought_back, check, refuse_misfits, refuse_unplaceable
from raystore.serve.operate.promote import promote
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import deployment_records
from tests.serve.conftest import Served, Whole


@pytest.fixture(scope="module")
def rooms(house: Served) -> Rooms:
    return house.rooms


def problems(rooms: Rooms, **spec: Any) -> list[str]:
    found = check(AppSpec.model_validate(spec), rooms)
    assert found.fits == (not found.problems)
    return list(found.problems)


def test_a_file_that_fits_is_drawn_and_nothing_is_recorded(rooms: Rooms, house: Served) -> None:
    spec = {
        "port": 8123,
        "replicas": {"min": 1, "max": 4},
        "encoders": {"photos": {"gpu": 0.5, "cpus": 2, "replicas": 2}},
        "grpc": {"port": 9123},
        "deployments": {
            "c-triage": {
                "head": "refunds@2",
                "log": {"collection": "tickets", "sample": 0.5},
                "shadow": [{"head": "refunds@1", "sample": 0.25}, "colours@1"],
                "rules": {
                    "before": [{"name": "old", "when": "product = 'old'", "route": "c-photos"}],
                    "after": [{"name": "unsure", "least": {"*": 0.5}}, {"name": "look", "review": True}],
                },
                "review": "reviewed",
                "keep": ["product"],
            },
            "c-photos": {
                "head": {"name": "colours", "own": True, "gpu": 0.25},
                "log": {"collection": "everything", "required": False},
            },
        },
    }
    found = check(AppSpec.model_validate(spec), rooms)
    assert found.problems == ()
    tiny, photos = (rooms.encoders.get(name).label for name in ("tiny", "photos"))
    assert found.graph() == (
        "http://127.0.0.1:8123 ─▶ orchestrator × 1 to 4\n"
        "grpc://127.0.0.1:9123 ─┘\n"
        "├─ c-triage\n"
        "│  ├─ rules before: old\n"
        f"│  ├─ encoder {tiny} (in the orchestrator; on several nodes a deployment of its own)\n"
        "│  ├─ head refunds@2\n"
        "│  ├─ rules after: unsure, look\n"
        "│  ├─ log ─▶ collection tickets, before the answer, 50% of them\n"
        "│  ├─ shadow refunds@1, 25% of requests\n"
        f"│  ├─ shadow colours@1, 100% of requests, encodes with {photos}\n"
        "│  └─ review ─▶ table reviewed\n"
        "└─ c-photos\n"
        f"   ├─ encoder {photos} (a deployment of its own × 2, 2 cores, 0.5 GPU)\n"
        "   ├─ head colours@1 (a deployment of its own × 1, 1 cores, 0.25 GPU)\n"
        "   └─ log ─▶ collection everything, behind the answer"
    )
    assert not {"c-triage", "c-photos"} & set(deployment_records(rooms.catalog))
    refuse_misfits(AppSpec.model_validate(spec), rooms)


def test_a_shadow_whose_encoder_a_promotion_would_miss_is_drawn_so(rooms: Rooms) -> None:
    spec: dict[str, Any] = {"colocate": False, "deployments": {"c-apart": {"head": "refunds@2", "shadow": ["colours@1"]}}}
    photos = rooms.encoders.get("photos").label
    line = f"shadow colours@1, 100% of requests, encodes with {photos}"
    assert f"{line} (promoted only once encoders: names it)" in check(AppSpec.model_validate(spec), rooms).graph()
    placed = AppSpec.model_validate({**spec, "encoders": {"photos": {}}})
    assert check(placed, rooms).graph().endswith(line)


def test_where_an_encoder_runs_is_drawn_as_the_file_places_it(rooms: Rooms) -> None:
    tiny = rooms.encoders.get("tiny").label

    def line(**spec: Any) -> str:
        drawn = check(AppSpec.model_validate({"deployments": {"c-place": {"head": "refunds@2"}}, **spec}), rooms).graph()
        [found] = [each.strip(" ├─└") for each in drawn.splitlines() if "encoder" in each]
        return found

    assert line() == f"encoder {tiny} (in the orchestrator; on several nodes a deployment of its own)"
    assert line(colocate=True) == f"encoder {tiny} (in the orchestrator)"
    assert line(colocate=False) == f"encoder {tiny} (a deployment of its own × 1, 1 cores)"
    assert line(colocate=False, encoders={"tiny": {"cpus": 2}}) == f"encoder {tiny} (a deployment of its own × 1, 2 cores)"


def test_a_replica_that_fits_on_no_node_is_told_beforehand(rooms: Rooms) -> None:
    file = {
        "encoders": {"tiny": {"cpus": 4}, "photos": {"gpu": 1}},
        "deployments": {"c-large": {"head": {"name": "refunds@2", "own": True, "cpus": 3, "gpu": 0.5}}},
    }
    spec = AppSpec.model_validate(file)
    nodes = [Node(cpus=8, gpus=0), Node(cpus=2, gpus=2)]
    head = (
        "deployments.c-large.head: a replica asks for 3 cores and 0.5 GPUs, which no node has (2 cores and 2 GPUs; 8 cores)"
    )
    assert check(spec, rooms, nodes).problems == (head,)
    with pytest.raises(InvalidArguments) as refused:
        refuse_unplaceable(spec, rooms, nodes)
    assert str(refused.value) == f"deploy: {head}."
    refuse_unplaceable(spec, rooms, [Node(cpus=4, gpus=1)])


def test_what_this_machine_has_too_few_cores_for_is_a_warning_where_no_ray_is_known(rooms: Rooms) -> None:
    found = check(
        AppSpec.model_validate({"encoders": {"tiny": {"cpus": 1000}}, "deployments": {"c-w": {"head": "refunds@2"}}}), rooms
    )
    cores = os.cpu_count()
    assert (found.fits, found.warnings) == (True, (
        f"encoders.tiny: a replica asks for 1000 cores, which no node has ({cores} core{'' if cores == 1 else 's'}); "
        "a Ray that is started on this machine could not place it",
    ))  # fmt: skip


def test_everything_that_does_not_fit_is_told_at_once(rooms: Rooms) -> None:
    deployments = {
        "c-head": {"head": "nothing@1"},
        "c-log": {"head": "refunds@2", "log": "strange"},
        "c-canary": {"head": "refunds@2", "canary": {"head": "colours@1", "percent": 5}},
        "c-rules": {
            "head": "refunds@2",
            "rules": {
                "before": [
                    {"name": "there", "route": "c-rulse"},
                    {"name": "late", "when": "confidence < 1", "refuse": "no"},
                ],
                "after": [{"name": "look", "review": True}, {"name": "call", "call": "nowhere.at_all:hook"}],
            },
        },
        "c-keep": {"head": "refunds@2", "keep": ["label"], "review": "tickets"},
    }
    found = problems(
        rooms, deployments=deployments, encoders={"nobody": {}}, collections=["tickets", "gone"], models=["nobody"],
        tables=["lost"],
        tls={"certificate": "/nowhere/a.pem", "key": "/nowhere/b.pem"}, grpc={"port": 8000}, host="0.0.0.0",
    )  # fmt: skip
    starts = [
        "deployments.c-head.head: no head 'nothing@1'",
        "deployments.c-log.log: the log of deployment 'c-log', which holds what head 'refunds@2' encodes, expects ",
        "deployments.c-canary.canary: the canary of deployment 'c-canary', head 'colours@1', expects the live head's ",
        "deployments.c-rules.rules: rule 'late': ",
        "deployments.c-rules.rules: rule 'call': it calls 'nowhere.at_all:hook', which cannot be imported: ModuleNotFoundError",
        "deployments.c-rules.rules: rule 'there': it routes to 'c-rulse', which is no deployment: did you mean 'c-rules'?",
        "deployments.c-rules.rules: a rule sends to review, and there is no review queue: name its table in review:",
        "deployments.c-keep.keep: 'label' is a column that predictions have (label)",
        "deployments.c-keep.review: 'tickets' is a collection: name a table of its own",
        "encoders.nobody: no encoder 'nobody'",
        "collections: there is no collection 'gone'",
        "models: no encoder 'nobody'",
        "tls: there is no file '/nowhere/a.pem'",
        "tls: there is no file '/nowhere/b.pem'",
        "grpc.port is 8000, which HTTP listens on",
        "host: ",
    ]
    assert len(found) == len(starts), "\n".join(found)
    for problem, start in zip(found, starts, strict=True):
        assert problem.startswith(start), problem


def told(look: Callable[[], object]) -> str:
    with pytest.raises(NotFound) as missing:
        look()
    return str(missing.value)


def test_everything_that_does_not_fit_in_one_deployment_is_told_at_once_though_its_head_is_not_there(rooms: Rooms) -> None:
    triage = {
        "head": "refunds@liv",
        "through": "bridge",
        "log": "tickts",
        "shadow": ["refunds@9", {"head": "colours@1"}],
        "canary": {"head": "refunds@8", "percent": 5},
        "rules": {
            "before": [
                {"name": "odd", "when": "text LIK 'x'", "refuse": "no"},
                {"name": "on", "route": "loans"},
            ],
            "after": [{"name": "look", "label": "odd"}],
        },
        "review": "tickets",
        "keep": ["label"],
    }
    other = {"head": {"name": "nothing@1", "own": True, "cpus": 3}, "review": "judged"}
    spec = AppSpec.model_validate({"deployments": {"triage-now": triage, "other": other}, "tables": ["judged"]})
    assert list(check(spec, rooms, [Node(cpus=1, gpus=0)]).problems) == [
        f"deployments.triage-now.head: {told(lambda: rooms.heads.get('refunds@liv'))}",
        f"deployments.triage-now.through: {told(lambda: rooms.encoders.get('bridge'))}",
        f"deployments.triage-now.log: {told(lambda: rooms.held('tickts'))}",
        f"deployments.triage-now.shadow: {told(lambda: rooms.heads.get('refunds@9'))}",
        f"deployments.triage-now.canary: {told(lambda: rooms.heads.get('refunds@8'))}",
        "deployments.triage-now.rules: rule 'odd': its condition does not parse. It may hold column, comparison, IN, BETWEEN, "
        "LIKE, IS NULL, AND, OR, NOT and literals",
        "deployments.triage-now.rules: rule 'on': it routes to 'loans', which is no deployment: there are other, triage-now",
        "deployments.triage-now.keep: 'label' is a column that predictions have (label)",
        "deployments.triage-now.review: 'tickets' is a collection: name a table of its own",
        f"deployments.other.head: {told(lambda: rooms.heads.get('nothing@1'))}",
        "deployments.other.head: a replica asks for 3 cores, which no node has (1 core)",
    ]


def test_everything_that_does_not_fit_a_head_that_is_there_is_told_at_once(rooms: Rooms) -> None:
    wanted = {
        "head": "refunds@2",
        "log": "strange",
        "shadow": ["refunds@9"],
        "canary": {"head": "colours@1", "percent": 5},
        "rules": {"after": [{"name": "sure", "least": {"crad": 0.5}}]},
    }
    starts = ["log: the log of deployment 'c-all', which holds ", "shadow: no head 'refunds@9' ", "canary: the canary of "]
    *parts, rule = problems(rooms, deployments={"c-all": wanted})
    for problem, start in zip(parts, starts, strict=True):
        assert problem.startswith(f"deployments.c-all.{start}"), problem
    assert rule == (
        "deployments.c-all.rules: rule 'sure': least names 'crad', a label that no head and no rule gives: did you mean 'card'?"
    )


def labelled(head: str, *after: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"head": head, "rules": {"after": list(after)}, **more}


def test_a_label_that_nothing_gives_is_told_beforehand_and_not_deployed(rooms: Rooms) -> None:
    rules = (
        {"name": "sure", "least": {"crad": 0.5, "card": 0.5, "*": 0.1}},
        {"name": "gold", "label": "priority"},
        {"name": "close", "when": "second IN ('money', 'mony') AND NOT label = 'prioriti'", "abstain": True},
        {"name": "actions", "allow": {"refnd": ["pay"], "priority": ["call"], "money": ["pay"]}},
    )
    spec = {"deployments": {"c-labels": labelled("refunds@1", *rules)}}
    found = problems(rooms, **spec)
    strange = "a label that no head and no rule gives"
    assert found == [
        f"deployments.c-labels.rules: rule 'sure': least names 'crad', {strange}: did you mean 'card'?",
        f"deployments.c-labels.rules: rule 'close': when names 'mony', {strange}: did you mean 'money'?",
        f"deployments.c-labels.rules: rule 'close': when names 'prioriti', {strange}: did you mean 'priority'?",
        f"deployments.c-labels.rules: rule 'actions': allow names 'refnd', {strange}: there are 'card', 'money', 'priority'",
    ]
    with pytest.raises(InvalidArguments) as refused:
        refuse_misfits(AppSpec.model_validate(spec), rooms)
    assert str(refused.value) == f"deploy: {'; '.join(found)}."


def test_a_label_of_a_shadow_a_canary_or_a_head_that_answered_before_is_known(rooms: Rooms) -> None:
    bound = {"name": "sure", "least": {"colour": 0.5}}
    assert problems(rooms, deployments={"c-new": labelled("refunds@1", bound, shadow=["refunds@2"])}) == []
    canary = {"head": "refunds@2", "percent": 5}
    assert problems(rooms, deployments={"c-new": labelled("refunds@1", bound, canary=canary)}) == []
    assert len(problems(rooms, deployments={"c-new": labelled("refunds@1", bound)})) == 1
    rooms.record("c-before", DeploymentSpec.model_validate({"head": "refunds@2"}))
    assert problems(rooms, deployments={"c-before": labelled("refunds@1", bound)}) == []


def test_labels_below_a_hook_are_not_held_against_the_heads(rooms: Rooms) -> None:
    hook = {"name": "hook", "call": "tests.serve.bad_hooks:sleep"}
    above, below = ({"name": name, "least": {"crad": 0.5}} for name in ("above", "below"))
    allow = {"name": "actions", "allow": {"refnd": ["pay"]}}
    found = problems(rooms, deployments={"c-hook": labelled("refunds@1", allow, above, hook, below)})
    assert [each.partition(", ")[0] for each in found] == ["deployments.c-hook.rules: rule 'above': least names 'crad'"]


def test_labels_of_a_head_that_asks_labelled_rows_or_gives_a_number_are_not_guessed(whole: Any) -> None:
    rule = {"name": "close", "when": "label = 'nobody'", "abstain": True}
    assert problems(whole.rooms, deployments={"c-number": labelled("price@1", rule)}) == []
    assert len(problems(whole.rooms, deployments={"c-classes": labelled("topics@1", rule)})) == 1


def test_a_file_that_would_bring_back_a_head_that_was_promoted_away_is_noted(rooms: Rooms) -> None:
    def notes(head: str, name: str = "c-back") -> list[str]:
        return brought_back(check(AppSpec.model_validate({"deployments": {name: {"head": head}}}), rooms), rooms)

    rooms.record("c-back", DeploymentSpec.model_validate({"head": "refunds@1", "shadow": ["refunds@2"]}))
    assert notes("refunds@1") == notes("refunds@1", "c-never") == []
    promote(rooms, "refunds@2", deployment="c-back")
    assert notes("refunds@1") == [
        "deployments.c-back: refunds@2 answers now (promoted refunds@2 over refunds@1); deploying this file brings "
        "refunds@1 back"
    ]
    assert notes("refunds@2") == notes("colours@1") == [], "it answers now; it never did"


def test_a_table_may_be_served_before_it_is_there_which_is_said_of_one_that_no_review_makes(rooms: Rooms) -> None:
    def found(table: str) -> Check:
        asked = {"deployments": {"c-review": {"head": "refunds@2", "review": "judged"}}, "tables": [table]}
        return check(AppSpec.model_validate(asked), rooms, [Node(cpus=1, gpus=0)])

    assert (found("judged").fits, found("judged").warnings) == (True, ())
    assert (found("judge").fits, found("judge").warnings) == (True, ("tables: there is no table 'judge' yet",))


def test_a_review_into_a_table_that_is_none_of_reviews_does_not_fit(whole: Whole) -> None:
    rooms = whole.rooms
    register_table(rooms.catalog, "c_outcomes", [{"item": "a", "label": "card"}])
    names = ["id", "label", "reviewer", "time", "deployment"]
    register_table(rooms.catalog, "c_keyless", [dict.fromkeys(names, "a")])

    def found(table: str) -> list[str]:
        return problems(rooms, deployments={"c-into": {"head": "topics@1", "review": table}})

    no_columns = "table 'c_outcomes' has no column id, reviewer, time, deployment, so it is no review table: name another"
    assert found("c_outcomes") == [f"deployments.c-into.review: {no_columns}"]
    no_keys = "table 'c_keyless' was not registered with id='id' and time='time', as a review table is"
    assert found("c_keyless") == [f"deployments.c-into.review: {no_keys}"]
    assert found("c_to_be_made") == []


def test_a_circle_of_routes_is_found_before_it_runs(rooms: Rooms) -> None:
    def to(name: str) -> dict[str, Any]:
        return {"head": "refunds@2", "rules": {"before": [{"name": f"to-{name}", "route": name}]}}

    assert problems(rooms, deployments={"c-a": to("c-b"), "c-b": to("c-c"), "c-c": to("c-a")}) == [
        "deployments.c-a.rules: rule 'to-c-b': it routes in a circle: c-a -> c-b -> c-c -> c-a",
        "deployments.c-b.rules: rule 'to-c-c': it routes in a circle: c-b -> c-c -> c-a -> c-b",
        "deployments.c-c.rules: rule 'to-c-a': it routes in a circle: c-c -> c-a -> c-b -> c-c",
    ]


def test_a_shadow_that_predicts_something_else_cannot_be_compared(whole: Any) -> None:
    found = problems(whole.rooms, deployments={"c-tasks": {"head": "topics@1", "shadow": ["price@1"]}})
    assert found == ["deployments.c-tasks.shadow: heads that predict different things (classes, number) cannot be compared"]


def test_what_does_not_fit_is_not_deployed(rooms: Rooms) -> None:
    with pytest.raises(PassportMismatch):
        refuse_misfits(AppSpec.model_validate({"deployments": {"c-log": {"head": "refunds@2", "log": "strange"}}}), rooms)
    both = {"deployments": {"c-two": {"head": "refunds@2", "keep": ["label"]}}, "grpc": {"port": 8000}}
    with pytest.raises(InvalidArguments) as refused:
        refuse_misfits(AppSpec.model_validate(both), rooms)
    assert str(refused.value) == (
        "deploy: deployments.c-two.keep: 'label' is a column that predictions have (label); "
        "grpc.port is 8000, which HTTP listens on."
    )
