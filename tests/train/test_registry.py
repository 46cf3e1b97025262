from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.catalog import Catalog, open_root
from raystore.errors import HeadNotFound, InvalidArguments, InvalidName
from raystore.train.registry import Heads

from .handmade import ENCODER, head, published


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    layout, _ = open_root(tmp_path / "a store's 'folder' ü", create=True)
    return Catalog(layout)


@pytest.fixture
def heads(catalog: Catalog) -> Heads:
    """refunds with three versions, triage-2 with one."""
    for name in ("refunds", "refunds", "refunds", "triage-2"):
        published(catalog, name)
    return Heads(catalog)


def test_an_alias_is_a_version_until_it_is_pointed_elsewhere(heads: Heads) -> None:
    assert heads.set_alias("refunds", "live", 1) is None
    assert heads.set_alias("refunds", "candidate", 3) is None
    assert heads.aliases("refunds") == {"candidate": 3, "live": 1}
    assert heads.get("refunds@live").label == heads["refunds@live"].label == "refunds@1"
    assert heads.resolve("refunds@candidate") == ("refunds", 3)
    assert heads.set_alias("refunds", "live", 3) == 1
    assert heads["refunds@live"].label == "refunds@3"
    assert heads.aliases_of("refunds@3") == ["candidate", "live"]
    assert heads.aliases_of("refunds@1") == heads.aliases_of("nobody@1") == []
    assert heads.aliases("triage-2") == {}


def test_aliases_of_heads_whose_names_begin_alike_are_their_own(catalog: Catalog) -> None:
    for name in ("refunds", "refunds-2"):
        published(catalog, name)
        Heads(catalog).set_alias(name, "live", 1)
    assert Heads(catalog).aliases("refunds") == {"live": 1}
    assert Heads(catalog).record("refunds-2@live").name == "refunds-2"


def test_an_alias_keeps_its_history(heads: Heads) -> None:
    for number in (1, 3, 3, 2):
        heads.set_alias("refunds", "live", number)
    assert heads.drop_alias("refunds", "live") == 2
    history = heads.alias_history("refunds", "live")
    assert [entry["number"] for entry in history] == [1, 3, 2, None]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["at"]) for entry in history)
    assert heads.aliases("refunds") == {}
    heads.set_alias("refunds", "live", 2)
    assert heads["refunds@live"].label == "refunds@2"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.sampled_from(["live", "candidate"]), st.sampled_from([1, 2, 3, None])), max_size=12))
def test_what_an_alias_means_is_the_last_entry_of_its_history(
    moves: list[tuple[str, int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout, _ = open_root(tmp_path_factory.mktemp("aliases") / "store", create=True)
    catalog, expected = Catalog(layout), {}
    for _ in range(3):
        published(catalog)
    heads = Heads(catalog)
    for alias, number in moves:
        if number is not None:
            assert heads.set_alias("refunds", alias, number) == expected.get(alias)
            expected[alias] = number
        elif alias in expected:
            assert heads.drop_alias("refunds", alias) == expected.pop(alias)
    assert heads.aliases("refunds") == expected
    for alias in {alias for alias, number in moves if number is not None}:
        assert heads.alias_history("refunds", alias)[-1]["number"] == expected.get(alias)


def test_a_version_that_is_not_there_is_answered_with_the_versions_and_aliases_that_are(heads: Heads) -> None:
    heads.set_alias("refunds", "live", 2)
    where = f"store '{heads._layout.root}'"
    for wrong in ("refunds@prod", "refunds@9", "refunds@0", "refunds@", "refunds@../1", "refunds@LIVE"):
        with pytest.raises(HeadNotFound) as missing:
            heads.get(wrong)
        has = "It has: 'refunds@live', 'refunds@3', 'refunds@2', 'refunds@1'."
        assert str(missing.value) == f"no head '{wrong}' in {where}. {has}"
    with pytest.raises(HeadNotFound, match="no head 'refunds@4' in"):
        heads.set_alias("refunds", "live", 4)
    for call in (lambda: heads.drop_alias("refunds", "prod"), lambda: heads.alias_history("refunds", "prod")):
        with pytest.raises(HeadNotFound, match="no head 'refunds@prod' in"):
            call()
    for call in (lambda: heads.aliases("friday"), lambda: heads.set_alias("friday", "live", 1)):
        with pytest.raises(HeadNotFound, match=r"no head 'friday' in .* It has: 'refunds', 'triage-2'\."):
            call()


def test_an_alias_whose_version_was_taken_away_says_which_is_missing(heads: Heads) -> None:
    import shutil

    heads.set_alias("refunds", "live", 1)
    shutil.rmtree(heads._layout.heads("refunds") / "1")
    with pytest.raises(HeadNotFound, match="no head 'refunds@1' in"):
        heads.get("refunds@live")


@pytest.mark.parametrize("alias", ["", "3", "Live", "a/b", "../x", "a" * 64, "a b"])
def test_an_alias_that_is_no_name_never_becomes_a_path(heads: Heads, alias: str) -> None:
    with pytest.raises(InvalidName) as refused:
        heads.set_alias("refunds", alias, 1)
    assert str(refused.value) == (
        f"'{alias}' is no name for an alias: expected 1 to 63 characters, a small letter first, then small letters, "
        "digits, '_' or '-'."
    )
    assert heads.aliases("refunds") == {}


def test_notes_are_added_to_one_version_and_stay(heads: Heads) -> None:
    heads.set_alias("refunds", "live", 2)
    heads.note("refunds@live", "Trained on March.")
    heads.note("refunds@2", "退款 'quoted'\nsecond line")
    assert [note["text"] for note in heads.notes("refunds@live")] == ["Trained on March.", "退款 'quoted'\nsecond line"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", heads.notes("refunds@2")[0]["at"])
    assert heads.notes("refunds") == heads.notes("refunds@1") == []
    assert heads.numbers("refunds") == [1, 2, 3]
    assert heads.get("refunds@2").record == heads.record("refunds@2")


@pytest.mark.parametrize("text", ["", "  \n", "x" * 10_001, None])
def test_a_note_that_says_nothing_or_too_much_is_refused(heads: Heads, text: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        heads.note("refunds", text)
    assert str(refused.value) == "note('refunds'): a note is a text of 1 to 10,000 characters."
    assert heads.notes("refunds") == []


def test_versions_are_listed_newest_first_with_what_is_known_of_each(catalog: Catalog) -> None:
    published(catalog)
    published(catalog, task="labels", kind="mlp")
    heads = Heads(catalog)
    heads.set_alias("refunds", "live", 1)
    heads.note("refunds@1", "first")
    heads.note("refunds@1", "last")
    assert heads.versions("refunds") == [
        {
            "head": "refunds@2",
            "aliases": [],
            "kind": "mlp",
            "task": "labels",
            "score": "micro-F1 50.0%",
            "snapshot": "monday@3",
            "encoder": ENCODER,
            "note": None,
        },
        {
            "head": "refunds@1",
            "aliases": ["live"],
            "kind": "linear",
            "task": "classes",
            "score": "accuracy 75.0%",
            "snapshot": "monday@3",
            "encoder": ENCODER,
            "note": "last",
        },
    ]
    assert json.loads(json.dumps(heads.versions("refunds"))) == heads.versions("refunds")


def test_heads_show_themselves(catalog: Catalog) -> None:
    heads = Heads(catalog)
    assert repr(heads) == "Heads(none)"
    for name in ("refunds", "refunds", "triage-2"):
        published(catalog, name)
    heads.set_alias("refunds", "live", 1)
    heads.note("refunds@1", "<b>bold</b> & true")
    assert repr(heads) == "Heads(refunds@2 (live: 1), triage-2@1)"
    page = heads._repr_html_()
    assert "<b>bold" not in page
    cells = [unescape(cell) for cell in re.findall(r"<t[dh] [^>]*>(.*?)</t[dh]>", page)]
    assert cells[:8] == ["head", "aliases", "kind", "task", "score", "snapshot", "encoder", "note"]
    assert cells[16:24] == [
        "refunds@1", "live", "linear", "classes", "accuracy 75.0%", "monday@3", ENCODER, "<b>bold</b> & true",
    ]  # fmt: skip
    assert "3 heads" in page


def test_a_damaged_version_is_listed_with_what_is_wrong(heads: Heads) -> None:
    (heads._layout.heads("refunds") / "2" / "head.json").write_text("{")
    (heads._layout.heads("refunds") / "1" / "report.json").unlink()
    found = {row["head"]: row["note"] for row in heads.versions("refunds")}
    assert found == {
        "refunds@3": None,
        "refunds@2": "unusable: HeadRecord does not parse",
        "refunds@1": "unusable: report.json is missing",
    }
    assert "HeadRecord does not parse" in heads._repr_html_()


def test_a_notebook_shows_fifty_versions_and_counts_the_rest(catalog: Catalog) -> None:
    made = head()
    for _ in range(52):
        made.save(catalog.layout)
    page = Heads(catalog)._repr_html_()
    assert "52 heads" in page
    assert "2 more versions: heads.versions(name) lists them." in page
    assert page.count("<tr>") == 51


def test_heads_hold_names_versions_and_aliases(heads: Heads) -> None:
    heads.set_alias("refunds", "live", 2)
    assert all(reference in heads for reference in ("refunds", "refunds@3", "refunds@live", "triage-2@1"))
    assert not any(thing in heads for thing in ("friday", "refunds@9", "refunds@prod", "refunds@", "", 7, None))


@pytest.mark.parametrize(("number", "kind"), [("1", "str"), (True, "bool"), (1.0, "float"), (None, "NoneType")])
def test_an_alias_for_what_is_no_number_is_refused_by_its_type(heads: Heads, number: Any, kind: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        heads.set_alias("refunds", "live", number)
    assert str(refused.value) == f"set_alias('refunds', 'live'): number is {kind}, expected a version's number, such as 1."
    assert heads.set_alias("refunds", "live", np.int64(2)) is None  # type: ignore[arg-type]
    assert heads.aliases("refunds") == {"live": 2}
