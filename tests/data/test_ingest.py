"""The inline path, through the store and with a real, tiny model; on Ray it is tests/promises that embed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.errors import InvalidArguments
from raystore.layout import vector_column


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store that knows the model and holds nothing else."""
    root = tmp_path_factory.mktemp("ingest") / "store"
    raystore.open(root).encoders.register("tiny", model=str(tiny_model))
    return root


@pytest.fixture
def tickets(tmp_path: Path, registered: Path) -> Collection:
    store = raystore.open(shutil.copytree(registered, tmp_path / "store"))
    return store.create_collection("tickets", encoder="tiny", columns={"product": "string"})


def test_files_are_embedded_inline_and_the_report_adds_up(tickets: Collection, tmp_path: Path) -> None:
    texts = ["card never arrived", "hello world", "money is blue", None]
    pq.write_table(
        pa.table({"ticket": [1, 2, 3, 4], "body": texts, "product": ["card", None, "loan", "card"]}), tmp_path / "a.parquet"
    )
    (tmp_path / "b.csv").write_text("ticket,body,product,ticket_price\n5,the limit,card,2.5\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({"ticket": 6, "body": "text", "product": "loan"}) + "\n")
    seen: list[tuple[int, int]] = []
    report = tickets.embed(
        [tmp_path / "a.parquet", tmp_path / "b.csv", tmp_path / "c.jsonl"],
        text="body", id="ticket", keep=["product"], workers=0, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert (report.files, report.read, report.added, report.known, report.set_aside) == (3, 6, 5, 0, 1)
    assert report.reasons == {"the text is null": 1}
    assert report.workers == 0
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    assert str(report).startswith(
        "tickets: 5 rows embedded, 0 known already, 1 set aside (the text is null; see collection.set_aside()); "
    )
    encoder = tickets.encoder()
    found = tickets.to_arrow(["id", "product", vector_column(encoder.fingerprint)])
    assert found.column("id").to_pylist() == ["1", "2", "3", "5", "6"]
    vectors = np.array(found.column(2).to_pylist(), np.float32)
    expected = encoder.encode(["card never arrived", "hello world", "money is blue", "the limit", "text"])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert tickets.set_aside().select(["id", "row", "reason"]).to_pylist() == [
        {"id": "4", "row": 3, "reason": "the text is null"}
    ]
    again = tickets.embed(tmp_path / "*.*", text="body", id="ticket", keep=["product"], workers=0)
    assert (again.read, again.added, again.known, again.set_aside) == (6, 0, 5, 1)


def test_columns_that_are_not_there_are_all_named_and_nothing_is_written(tickets: Collection, tmp_path: Path) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.jsonl"
    a.write_text("id,text\n1,hello\n")
    b.write_text('{"id": 1, "text": "hello", "tags": ["x"]}\n')
    before = tickets.version
    with pytest.raises(InvalidArguments) as refused:
        tickets.embed([a, b], text="body", id="id", subject="who", keep=["tags", "text"], workers=0)
    assert str(refused.value) == (
        "embed into 'tickets': "
        f"'{a}' has no column 'body' (text=); it has: id, text; "
        f"'{a}' has no column 'who' (subject=); it has: id, text; "
        f"'{a}' has no column 'tags' (keep=); it has: id, text; "
        f"'{b}' has no column 'body' (text=); it has: id, text, tags; "
        f"'{b}' has no column 'who' (subject=); it has: id, text, tags; "
        f"'{b}': column 'tags' is of several types, a list or an object, which a collection cannot keep."
    )
    assert tickets.version == before


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"text": "text", "keep": ["text"]}, "column 'text' is the text; it is embedded and never kept (keep=)"),
        ({"text": "text", "workers": -1}, "workers is -1, expected 0 (inline) or more"),
        (
            {"text": "text", "keep": ["Product"]},
            "'Product' differs from 'product' in case only, which SQL does not tell apart",
        ),
        ({"text": "text", "id": "price"}, "'{path}': column 'price' (id=) is float64, expected strings or integers"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tickets: Collection, tmp_path: Path, arguments: dict, problem: str) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["hello"], "Product": ["card"], "price": [1.5]}), path)
    with pytest.raises(InvalidArguments) as refused:
        tickets.embed(path, **({"workers": 0} | arguments))
    assert str(refused.value) == f"embed into 'tickets': {problem.format(path=path)}."
    assert len(tickets) == 0


def test_two_files_of_one_name_need_an_id_column(tickets: Collection, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.csv").write_text("text\nhello\n")
    with pytest.raises(InvalidArguments, match="two files have the same name"):
        tickets.embed(tmp_path / "*" / "t.csv", text="text", workers=0)


def test_files_without_rows_are_no_work(tickets: Collection, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("")
    report = tickets.embed(tmp_path / "t.csv", text="text", workers=3)
    assert (report.read, report.added, report.workers) == (0, 0, 0)
