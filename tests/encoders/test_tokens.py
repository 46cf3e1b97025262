from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raystore.encoders.backends import BatchSize
from raystore.encoders.tokens import clean, split


@given(st.lists(st.integers(0, 300), max_size=80), st.integers(1, 2000), st.integers(1, 40))
def test_split_keeps_every_row_once_within_its_limits(lengths: list[int], tokens: int, rows: int) -> None:
    found = split(np.array(lengths, dtype=np.int64), BatchSize(tokens=tokens, rows=rows, images=1))
    assert sorted(int(i) for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= rows
        assert len(batch) == 1 or len(batch) * longest <= tokens


def test_split_puts_the_longest_first_and_keeps_the_order_of_equals() -> None:
    found = split(np.array([2, 9, 2, 9]), BatchSize(tokens=18, rows=8, images=1))
    assert [list(batch) for batch in found] == [[1, 3], [0, 2]]


def test_clean_replaces_lone_surrogates_and_nothing_else() -> None:
    assert clean("a\ud83db\udc00c") == "a\ufffdb\ufffdc"
    assert clean("plain") == "plain"
    assert clean("ünï 😀 机器") == "ünï 😀 机器"


@given(st.text(st.characters(codec=None)))
def test_clean_text_can_always_be_encoded(text: str) -> None:
    clean(text).encode("utf-8")
