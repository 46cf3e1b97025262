from __future__ import annotations

from decimal import Decimal
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from raystore.markup import cells_html, facts_html, rows_html, shown

PRINTABLE = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\ufffe\uffff"), max_size=150)


@given(PRINTABLE, PRINTABLE)
def test_whatever_a_value_holds_it_comes_out_as_text_and_never_as_markup(name: str, value: str) -> None:
    for html in (facts_html(name, {name: value}), rows_html([{name: value}], title=name)):
        tree = ElementTree.fromstring(html)
        assert {e.tag for e in tree.iter()} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert shown(value) in [e.text or "" for e in tree.iter("td")]


def test_values_are_shown_as_people_read_them() -> None:
    values = (None, True, 0.123456, 12345678.9, 1234567, ["a", 2], "x" * 200, {"a": 2, "b": 0.5})
    assert [shown(v) for v in values] == [
        "",
        "yes",
        "0.1235",
        "12,345,679",
        "1234567",
        "a, 2",
        "x" * 119 + "…",
        "a: 2, b: 0.5",
    ]


def test_rows_take_the_columns_of_the_first_and_an_empty_table_is_still_one() -> None:
    assert rows_html([]) == "<table><thead><tr></tr></thead><tbody></tbody></table>"
    assert rows_html([{"id": "a", "n": 1}, {"id": "b"}], note="two rows") == (
        "<table><thead><tr><th style='text-align:left'>id</th><th style='text-align:right'>n</th></tr></thead><tbody>"
        "<tr><td style='text-align:left'>a</td><td style='text-align:right'>1</td></tr>"
        "<tr><td style='text-align:left'>b</td><td style='text-align:right'></td></tr></tbody></table><p>two rows</p>"
    )


def sides(html: str) -> list[str]:
    """Where the cells stand, row by row."""
    return [
        cell.attrib["style"].removeprefix("text-align:")
        for cell in ElementTree.fromstring(html).iter()
        if cell.tag in ("th", "td")
    ]


def test_a_column_stands_right_with_its_header_where_it_holds_numbers_and_nothing_else() -> None:
    assert sides(cells_html(["n", "n"], [[1, "a"], [None, 2]])) == ["right", "left"] * 3
    assert sides(cells_html(["price", "there", "none"], [[Decimal("1.5"), True, None]])) == ["right", "left", "left"] * 2
    assert sides(cells_html(["share"], [["98.7%"]], right={"share"})) == ["right", "right"]


def test_the_names_of_facts_are_words_and_those_of_columns_stay_as_they_are() -> None:
    names = [e.text for e in ElementTree.fromstring(facts_html("", {"set_aside": 2, "rows_per_s": 5.0})).iter("th")]
    assert names == ["set aside", "rows a second"]
    assert ">set_aside</th>" in rows_html([{"set_aside": 2}])
