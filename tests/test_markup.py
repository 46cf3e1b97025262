from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from raystore.markup import facts_html, rows_html, shown

PRINTABLE = st.text(st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\ufffe\uffff"), max_size=150)


@given(PRINTABLE, PRINTABLE)
def test_whatever_a_value_holds_it_comes_out_as_text_and_never_as_markup(name: str, value: str) -> None:
    for html in (facts_html(name, {name: value}), rows_html([{name: value}], title=name)):
        tree = ElementTree.fromstring(html)
        assert {e.tag for e in tree.iter()} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert shown(value) in [e.text or "" for e in tree.iter("td")]


def test_values_are_shown_as_people_read_them() -> None:
    values = (None, True, 0.123456, 12345678.9, 1234567, ["a", 2], "x" * 200)
    assert [shown(v) for v in values] == ["", "yes", "0.1235", "12,345,679", "1234567", "a, 2", "x" * 119 + "…"]


def test_rows_take_the_columns_of_the_first_and_an_empty_table_is_still_one() -> None:
    assert rows_html([]) == "<table><thead><tr></tr></thead><tbody></tbody></table>"
    assert rows_html([{"id": "a", "n": 1}, {"id": "b"}], note="two rows") == (
        "<table><thead><tr><th style='text-align:left'>id</th><th style='text-align:left'>n</th></tr></thead><tbody>"
        "<tr><td style='text-align:left'>a</td><td style='text-align:right'>1</td></tr>"
        "<tr><td style='text-align:left'>b</td><td style='text-align:left'></td></tr></tbody></table><p>two rows</p>"
    )
