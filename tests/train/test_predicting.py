"""What a published copy keeps of a head: an answer for each row that has a vector, whatever the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raystore.catalog import open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.rows import row_table
from raystore.errors import PassportMismatch
from raystore.train.predicting import predicted, predictions_of
from tests.train.handmade import CLASSES, DIM, FINGERPRINT, head

STRANGER = "a81e00000000" + "0" * 52
HAS = np.array([True, False, True])


@pytest.fixture
def table(tmp_path: Path) -> CollectionTable:
    """Rows a, b and c; b has no vector of the heads' encoder."""
    layout, _ = open_root(tmp_path / "store", create=True)
    made = CollectionTable.create(layout, "tickets", {FINGERPRINT: DIM})
    rows: dict[str, Any] = dict.fromkeys(("subjects", "tenants", "times"), [None] * 3)
    vectors = np.eye(3, DIM, dtype=np.float32)
    made.rows.commit(
        [
            row_table(
                ids=["a", "b", "c"], payloads=[b"0" * 32] * 3, vectors={FINGERPRINT: vector_array(vectors, HAS)},
                kept={}, kept_types={}, **rows,
            )
        ],
        refuse_differing=True,
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    "task, kind", [("classes", pa.string()), ("labels", pa.list_(pa.string())), ("number", pa.float64())]
)
def test_rows_with_a_vector_get_an_answer_and_the_others_are_left_out(
    table: CollectionTable, task: str, kind: pa.DataType
) -> None:
    asked = head(task=task)
    rows = predicted(asked, table, ["c", "b", "gone", "a"])
    expected = asked.predict(np.eye(3, DIM, dtype=np.float32)[[2, 0]])
    assert rows.column("id").to_pylist() == ["c", "a"]
    assert rows.schema.field("label").type == kind
    assert rows.column("label").to_pylist() == expected.labels
    np.testing.assert_array_equal(rows.column("confidence").to_numpy(), expected.confidence)
    assert rows.column("abstained").to_pylist() == [False, False]


def test_what_is_published_names_the_version_and_the_encoder(table: CollectionTable) -> None:
    said = predictions_of(head(), table)
    assert (said.head, said.fingerprint) == ("refunds@0", FINGERPRINT)
    assert set(said.of(["a"]).column("label").to_pylist()) <= set(CLASSES)


def test_a_head_on_another_encoder_is_refused_before_anything_is_read(table: CollectionTable) -> None:
    with pytest.raises(PassportMismatch, match=f"collection 'tickets' expects {FINGERPRINT[:12]}"):
        predictions_of(head(fingerprint=STRANGER), table)
