"""serve check, graph and schema, shadow report, promote and rollback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import raystore
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import Predictions
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.deployment import DeploymentSpec
from tests.cli.conftest import Cli, Studied
from tests.serve.kept_rows import said

Store = tuple[str, Path]


@pytest.fixture
def store(studied: Studied) -> Store:
    return "--store", studied.root


def deployed(studied: Studied, name: str, **more: Any) -> None:
    spec = DeploymentSpec.model_validate({"head": "topics@1", "shadow": ["topics@2"], **more})
    rooms = Rooms(studied.root)
    rooms.record(name, spec)
    kept = Predictions.open_or_create(rooms.catalog, name)
    kept.append(said("topics@1", ["card"] * 40))
    kept.append(said("topics@2", ["card"] * 36 + ["money"] * 4, role="shadow"))


def write(folder: Path, spec: Any) -> Path:
    file = folder / "triage.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return file


def test_check_draws_what_would_run_and_says_that_it_fits(cli: Cli, store: Store, tmp_path: Path) -> None:
    file = write(tmp_path, {"deployments": {"desk": {"head": "topics@1", "shadow": ["topics@2"], "log": "items"}}})
    checked = cli(*store, "serve", "check", file)
    assert checked.code == 0, checked.err
    assert checked.out.startswith("http://127.0.0.1:8000 ─▶ orchestrator × 1\n└─ desk\n   ├─ encoder tiny@")
    assert checked.out.endswith("   └─ shadow topics@2, 100% of requests\n1 deployment: everything fits\n")
    drawn = cli(*store, "serve", "graph", file)
    assert (drawn.code, drawn.out + "1 deployment: everything fits\n") == (0, checked.out)
    as_json = cli(*store, "--json", "serve", "check", file).json
    assert (as_json["fits"], as_json["problems"], as_json["deployments"]["desk"]["head"]) == (True, [], "topics@1")
    assert "desk" not in raystore.open(store[1]).deployments.names()


def test_check_notes_which_deployments_and_served_collections_keep_raw_content(
    cli: Cli, studied: Studied, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    shutil.copytree(studied.root, root)  # not the one that others serve whole
    raystore.open(root).create_collection("hoard", encoder="tiny", keep_source=True)
    asked = ("--store", root, "serve", "check")
    spec = {"collections": ["items"], "deployments": {"desk": {"head": "topics@1", "log": "hoard"}}}
    logging_there = (
        "deployments.desk.log: collection 'hoard' keeps raw content (keep_source): the texts and images that are predicted are "
        "stored there, in plain"
    )
    serving_it = (
        "collections: 'hoard' keeps raw content (keep_source): the texts and images that are logged to it are "
        "stored there, in plain"
    )
    checked = cli(*asked, write(tmp_path, spec))
    assert checked.code == 0, checked.err
    assert checked.out.endswith(f"\nnote: {logging_there}\n1 deployment: everything fits\n")
    whole = {**spec, "collections": "all"}
    assert cli("--json", *asked, write(tmp_path, whole)).json["notes"] == [logging_there, serving_it]
    plain = {"collections": "all", "deployments": {"desk": {"head": "topics@1", "log": "items"}}}
    assert cli("--json", *asked, write(tmp_path, plain)).json["notes"] == [serving_it]
    shutil.rmtree(next((root / "collections" / "hoard").glob("rows.lance")) / "_versions")
    assert cli("--json", *asked, write(tmp_path, plain)).json["notes"] == []


def test_check_ends_with_1_where_something_does_not_fit_and_tells_all_of_it(cli: Cli, store: Store, tmp_path: Path) -> None:
    spec = {"deployments": {"desk": {"head": "topics@77"}}, "collections": ["gone"]}
    checked = cli(*store, "serve", "check", write(tmp_path, spec))
    assert checked.code == 1
    assert [line.partition(" '")[0] for line in checked.out.splitlines()] == [
        "does not fit: deployments.desk.head: no head",
        "does not fit: collections: there is no collection",
    ]
    as_json = cli(*store, "--json", "serve", "check", write(tmp_path, spec))
    assert (as_json.code, as_json.json["fits"], len(as_json.json["problems"])) == (1, False, 2)


def test_a_file_with_mistakes_ends_with_2_and_names_them(cli: Cli, store: Store, tmp_path: Path) -> None:
    file = write(tmp_path, {"prot": 1, "deployments": {"desk": {"heat": "topics"}}})
    checked = cli(*store, "serve", "check", file)
    assert checked.code == 2
    assert checked.err == (
        f"InvalidArguments: serve '{file}': deployments.desk.head: field required; deployments.desk has the unknown key 'heat': "
        "did you mean 'head'?; the file has the unknown key 'prot': did you mean 'port'?\n"
    )
    assert cli(*store, "serve", "check", tmp_path / "missing.yaml").code == 2
    two = cli(*store, "serve", file, file)
    assert (two.code, "one file is served" in two.err) == (2, True)


def test_the_schema_takes_what_the_reader_takes(cli: Cli) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(cli("serve", "schema").out)
    assert cli("--json", "serve", "schema").json == schema
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    examples: list[Any] = [
        yaml.safe_load((Path(__file__).parents[2] / "cluster" / "triage.yaml").read_text(encoding="utf-8"))
    ]
    examples.append(
        {
            "replicas": 2,
            "deployments": {
                "desk": {
                    "head": "topics@live",
                    "log": "items",
                    "shadow": ["topics@2", {"head": "topics@3", "sample": 0.5}],
                },
                "own": {"head": {"name": "topics", "own": True, "replicas": {"min": 1, "max": 2}}, "review": "reviewed"},
            },
        }
    )
    for example in examples:
        AppSpec.model_validate(example)
        assert [error.message for error in validator.iter_errors(example)] == []
    for wrong in ({"prot": 1}, {"deployments": {"desk": {"head": 3}}}, {"replicas": "two"}):
        assert list(validator.iter_errors(wrong))


def test_a_shadows_report_is_shown_written_and_told_as_json(
    cli: Cli, store: Store, studied: Studied, tmp_path: Path
) -> None:
    deployed(studied, "s-report")
    shown = cli(*store, "shadow", "report", "s-report")
    assert shown.code == 0, shown.err
    assert "topics@2" in shown.out
    assert "90" in shown.out
    [told] = cli(*store, "--json", "shadow", "report", "s-report").json
    assert (told["n_paired"], told["metrics"]["agreement"]) == (40, 0.9)
    page = tmp_path / "{head}.html"
    written = cli(*store, "shadow", "report", "s-report", "--html", page)
    assert written.out.endswith(f"written: {tmp_path / 'topics-2.html'}\n")
    assert (tmp_path / "topics-2.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for given, n in (
        (("--since", "9999w"), 40),
        (("--since", "2026-11-01T12:10"), 30),
        (("--until", "2026-11-01T12:10Z"), 10),
    ):
        assert cli(*store, "--json", "shadow", "report", "s-report", *given).json[0]["n_paired"] == n
    assert cli(*store, "shadow", "report", "s-report", "--until", "9999w").out.startswith("nothing was seen")
    wrong = cli(*store, "shadow", "report", "s-report", "--since", "yesterday", "--until", "999999w")
    assert wrong.code == 2
    assert "--since is 'yesterday', expected 24h, 7d, 2w, or a date like 2027-01-01" in wrong.err
    assert "--until is '999999w'" in wrong.err
    assert cli(*store, "shadow", "report", "nobody").code == 3
    Rooms(studied.root).record("s-unseen", DeploymentSpec.model_validate({"head": "topics@1", "shadow": ["topics@2"]}))
    unseen = cli(*store, "shadow", "report", "s-unseen")
    assert unseen.out == "nothing was seen by a shadow of 's-unseen' yet\n"


def test_a_shadow_is_promoted_where_its_gate_holds_and_rolled_back(cli: Cli, store: Store, studied: Studied) -> None:
    deployed(studied, "s-promote")
    command = (*store, "promote", "topics@2", "--deployment", "s-promote")
    held = cli(*command, "--if", "agreement > .97")
    assert (held.code, held.err) == (
        4,
        "GateHeld: head 'topics@2' is not promoted: agreement > 0.97 does not hold (agreement > 0.97 with agreement = 0.9). "
        "Nothing was changed.\n",
    )
    done = cli(*command, "--if", "agreement > .8")
    assert (done.code, done.out) == (
        0,
        "topics@2 passes: agreement > 0.8\n"
        "  agreement > 0.8: holds (agreement = 0.9)\n"
        "s-promote: topics@2 answers now, topics@1 before (record 2)\n"
        "its file names topics@1: change that, or the next deploy from it brings that back\n",
    )
    back = cli(*store, "rollback", "s-promote", "--json")
    assert back.code == 0
    assert back.json == {
        "deployment": "s-promote", "number": 3, "before": "topics@2", "after": "topics@1",
        "why": "rolled back from topics@2 to topics@1, record 1", "alias": None, "file_names": "topics@1", "verdict": None,
    }  # fmt: skip
    forth = cli(*store, "rollback", "s-promote", "--to", "2")
    assert forth.out == (
        "s-promote: topics@2 answers now, topics@1 before (record 4)\n"
        "its file names topics@1: change that, or the next deploy from it brings that back\n"
    )
    assert cli(*store, "rollback", "s-promote").out == "s-promote: topics@1 answers now, topics@2 before (record 5)\n"
    assert cli(*store, "rollback", "nobody").code == 3
    assert cli(*store, "rollback", "s-promote", "--to", "99").code == 2
    assert cli(*store, "promote", "topics@1", "--deployment", "nobody").code == 3


def test_an_alias_that_the_file_names_is_moved(cli: Cli, store: Store, studied: Studied) -> None:
    Rooms(studied.root).heads.set_alias("topics", "steady", 1)
    deployed(studied, "s-alias", head="topics@steady")
    done = cli(*store, "promote", "topics@2", "--deployment", "s-alias")
    assert done.out == "s-alias: topics@2 answers now, topics@1 before (record 2)\ntopics@steady means it\n"
