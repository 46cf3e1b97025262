"""What a source lets out, by its rows alone."""

from __future__ import annotations

import pytest

from raystore.data.rows import id_problem
from raystore.errors import InvalidRows
from raystore.serve.wire.common import MAX_ID_CHARS
from raystore.source.rows import check


@pytest.mark.parametrize("id_", ["x", "ü" * MAX_ID_CHARS, "a 'b\"/c"])
def test_an_id_that_a_collection_takes_passes(id_: str) -> None:
    assert id_problem(id_) is None
    [row] = check([{"id": id_, "text": "x"}], (), 10, "tickets", now=None).rows
    assert row["id"] == id_


@pytest.mark.parametrize("id_", ["", "ü" * (MAX_ID_CHARS + 1), "\ud800", 7])
def test_an_id_that_a_collection_would_refuse_is_refused_at_once(id_: object) -> None:
    assert id_problem(id_) is not None
    with pytest.raises(InvalidRows) as caught:
        check([{"id": id_, "text": "x"}], (), 10, "tickets", now=None)
    assert "the id is no text of 1 to 512 characters" in [reason for _, _, reason in caught.value.problems]
    assert "ü" not in str(caught.value)
