"""A second encoder in a collection: filled from the files that were embedded, and nothing else is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.errors import EncoderNotFound, ModelUnusable
from raystore.layout import vector_column
from raystore.store import Store

N = 40
WORDS = ("card", "money", "blue", "hello")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store that knows two encoders and holds nothing else."""
    store = raystore.open(tmp_path_factory.mktemp("fill") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    return store.root


@pytest.fixture
def store(tmp_path: Path, registered: Path) -> Store:
    return raystore.open(shutil.copytree(registered, tmp_path / "it's a störe"))


@pytest.fixture
def tickets(store: Store) -> Collection:
    return store.create_collection("tickets", encoder="tiny", columns={"product": "string"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tickets.parquet")


def text_of(i: int) -> str:
    return f"{i} {WORDS[i % 4]} never arrived"  # what tells them apart stands among the first 8 tokens


def write(path: Path, rows: range = range(N), **changed: str) -> Path:
    texts = [changed.get(f"r{i}", text_of(i)) for i in rows]
    products = [WORDS[i % 3] for i in rows]
    pq.write_table(pa.table({"ticket": list(rows), "body": texts, "product": products}), path)
    return path


def embed(tickets: Collection, path: Path, **options: object) -> object:
    return tickets.embed(path, **({"text": "body", "id": "ticket", "keep": ["product"], "workers": 0} | options))


def vectors(tickets: Collection, name: str) -> dict[str, list[float] | None]:
    column = vector_column(tickets._store.encoder(name).fingerprint)
    rows = tickets.to_arrow(["id", column])
    return dict(zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True))


def hidden(tickets: Collection) -> list[tuple]:
    """What a fill must leave as it is."""
    rows = tickets._table.rows.dataset().to_table(columns=["id", "product", "_payload", "_added"], with_row_id=True)
    return sorted(zip(*(rows[c].to_pylist() for c in rows.column_names), strict=True))


def test_a_second_encoder_is_filled_from_the_files_of_earlier_jobs(tickets: Collection, store: Store, file: Path) -> None:
    embed(tickets, file)
    before, first = hidden(tickets), vectors(tickets, "tiny")
    report = tickets.add_encoder("short", workers=0)
    assert (report.lacking, report.filled, report.left, report.set_aside, report.files) == (N, N, 0, 0, 1)
    assert str(report).startswith(f"tickets: 40 of 40 rows got a vector of {store.encoder('short').label}; ")
    assert hidden(tickets) == before
    assert vectors(tickets, "tiny") == first
    found = vectors(tickets, "short")
    expected = store.encoder("short").encode([text_of(i) for i in range(N)])
    np.testing.assert_allclose([found[str(i)] for i in range(N)], expected, atol=1e-5)
    assert [e.name for e in tickets.encoders] == ["tiny", "short"]
    assert tickets.search(text_of(7), k=1, encoder="short").ids == [["7"]]
    again = tickets.add_encoder("short", workers=0)
    assert (again.lacking, again.filled, again.left) == (0, 0, 0)


def test_rows_without_a_file_are_reported_and_new_rows_of_a_file_are_not_added(tickets: Collection, file: Path) -> None:
    embed(tickets, file)
    tickets.log([{"id": "logged", "text": "hello world"}])
    write(file, range(N + 5))
    report = tickets.add_encoder("short", workers=0)
    assert (report.lacking, report.filled, report.left, report.set_aside, len(tickets)) == (N + 1, N, 1, 0, N + 1)
    assert "; 1 have none: no file holds them as they were embedded; " in str(report)
    assert vectors(tickets, "short")["logged"] is None
    assert [job["counts"]["absent"] for job in tickets.jobs()] == [0, 5]


def test_a_row_whose_content_changed_is_set_aside_and_the_others_are_filled(tickets: Collection, file: Path) -> None:
    embed(tickets, file)
    write(file, r3="another text", r8="")
    report = tickets.add_encoder("short", workers=0)
    assert (report.filled, report.left, report.set_aside) == (N - 2, 2, 2)
    assert report.reasons == {"the content is not what was embedded before": 1, "the text is empty": 1}
    assert tickets.set_aside().select(["id", "row", "reason"]).to_pylist() == [
        {"id": "8", "row": 8, "reason": "the text is empty"},
        {"id": "3", "row": 3, "reason": "the content is not what was embedded before"},
    ]
    write(file)
    assert (tickets.add_encoder("short", workers=0).filled, len(tickets.set_aside())) == (2, 2)


def test_a_file_that_is_gone_or_lost_a_column_is_named_and_the_others_are_read(tickets: Collection, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.parquet", range(10 * i, 10 * i + 10)) for i, name in enumerate(("a", "b", "c"))]
    for path in paths:
        embed(tickets, path)
    paths[0].unlink()
    pq.write_table(pa.table({"ticket": [10], "text": ["hello"]}), paths[1])
    report = tickets.add_encoder("short", workers=0)
    assert (report.gone, report.files, report.filled, report.left) == ([str(paths[0]), str(paths[1])], 1, 10, 20)
    assert "; 2 of the files are gone; " in str(report)


def test_files_embedded_with_other_columns_and_prefixes_are_read_as_they_were(tickets: Collection, tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", range(10))
    second = tmp_path / "b.csv"
    second.write_text("body,note\nhello world,x\nmoney is blue,y\n")
    embed(tickets, first, id_prefix="mail/")
    tickets.embed(second, text="body", keep=["note"], workers=0)
    tickets.embed(second, text="note", id_prefix="notes/", workers=0)
    report = tickets.add_encoder("short", workers=0)
    assert (report.filled, report.left, report.files) == (14, 0, 3)
    assert None not in vectors(tickets, "short").values()


def test_an_unknown_encoder_changes_nothing(tickets: Collection, file: Path) -> None:
    embed(tickets, file)
    version = tickets.version
    with pytest.raises(EncoderNotFound):
        tickets.add_encoder("nobody")
    assert tickets.version == version


def test_an_encoder_that_cannot_be_loaded_gets_no_column_and_logs_go_on(
    tickets: Collection, store: Store, file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "a model")
    lost = store.encoders.register("lost", model=str(folder), max_length=5)
    shutil.rmtree(folder)
    shutil.rmtree(store.layout.encoder(lost.fingerprint) / "exports", ignore_errors=True)
    embed(tickets, file)
    version = tickets.version
    with pytest.raises(ModelUnusable):
        tickets.add_encoder("lost", workers=0)
    for way in ("dual", "files", "bridge", "through", "auto"):
        with pytest.raises(ModelUnusable):
            tickets.migrate("lost", way, workers=0)  # type: ignore[arg-type]
    assert (tickets.version, [e.name for e in tickets.encoders]) == (version, ["tiny"])
    assert vector_column(lost.fingerprint) not in tickets.table.schema.names
    tickets.log([{"id": "later", "text": "hello world"}])
    assert vectors(tickets, "tiny")["later"] is not None


def test_embed_gives_new_rows_the_vector_of_the_encoder_that_is_asked_for_and_fills_it_where_it_lacks(
    tickets: Collection, tmp_path: Path
) -> None:
    tickets.add_encoder("short")
    one, two = write(tmp_path / "one.parquet", range(10)), write(tmp_path / "two.parquet", range(10, 20))
    assert embed(tickets, one, encoder="tiny").added == 10
    assert embed(tickets, two, encoder="short").added == 10
    assert [i for i, v in vectors(tickets, "tiny").items() if v is None] == [str(i) for i in range(10, 20)]
    assert [i for i, v in vectors(tickets, "short").items() if v is None] == [str(i) for i in range(10)]
    filled = embed(tickets, one, encoder="short")
    assert (filled.added, filled.filled, filled.known, filled.read) == (0, 10, 0, 10)
    assert ": 0 rows embedded, 10 filled, 0 known already; " in str(filled)
    assert tickets.add_encoder("tiny", workers=0).filled == 10
    assert None not in [*vectors(tickets, "tiny").values(), *vectors(tickets, "short").values()]
    known = embed(tickets, one, encoder="short")
    assert (known.added, known.filled, known.known) == (0, 0, 10)


def test_logged_rows_get_a_vector_of_every_encoder(tickets: Collection, store: Store) -> None:
    tickets.log([{"id": "before", "text": "hello world"}])
    other = raystore.open(store.root).collection("tickets")  # a service that runs on while an encoder is added
    other.log([{"id": "also before", "text": "hello"}])
    tickets.add_encoder("short")
    tickets.log([{"id": "a", "text": "the card never arrived"}])
    other.log([{"id": "b", "text": "money is blue"}])
    tickets.log(
        [{"id": "c", "vector": store.encoder("short").encode(["hello"])[0]}], fingerprint=store.encoder("short").fingerprint
    )
    assert [i for i, v in vectors(tickets, "tiny").items() if v is None] == ["c"]
    assert [i for i, v in vectors(tickets, "short").items() if v is None] == ["before", "also before"]
    np.testing.assert_allclose(
        vectors(tickets, "short")["b"], store.encoder("short").encode(["money is blue"])[0], atol=1e-5
    )


def test_sql_similarity_is_null_for_rows_without_a_vector(tickets: Collection, store: Store, file: Path) -> None:
    tickets.log([{"id": "logged", "text": "hello world"}])
    version = tickets.version
    tickets.add_encoder("short")
    query = "SELECT id, similarity(short, 'hello') AS s FROM tickets ORDER BY id"
    assert store.sql(query).to_dicts() == [{"id": "logged", "s": None}]
    embed(tickets, file, encoder="tiny")
    pinned = f"SELECT id, similarity(short, 'hello') AS s FROM tickets AT (VERSION => {tickets.version}) ORDER BY id"
    assert {row["s"] for row in store.sql(pinned).to_dicts()} == {None}
    tickets.add_encoder("short", workers=0)
    found = {row["id"]: row["s"] for row in store.sql(query).to_dicts()}
    assert [i for i, s in found.items() if s is None] == ["logged"]
    assert {row["s"] for row in store.sql(pinned).to_dicts()} == {None}  # as of that version it was not there
    assert len(store.sql(f"SELECT id FROM tickets AT (VERSION => {version})")) == 1


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_search_through_an_index_built_before_a_fill_misses_no_filled_row(
    tickets: Collection, file: Path, kind: str
) -> None:
    tickets.add_encoder("short")
    embed(tickets, write(file, range(20)), encoder="short")
    embed(tickets, write(file, range(N)), encoder="tiny")
    tickets.build_index(encoder="short", kind=kind, shards=2, workers=0)
    assert tickets.search(text_of(33), k=1, encoder="short").ids != [["33"]]
    tickets.add_encoder("short", workers=0)
    for searched in (tickets, raystore.open(tickets._store.root).collection("tickets")):
        for i in range(N):
            assert searched.search(text_of(i), k=1, encoder="short").ids == [[str(i)]]


@pytest.mark.ray
def test_ray_workers_fill_as_this_process_does(tickets: Collection, store: Store, file: Path, ray_session: object) -> None:
    embed(tickets, file)
    tickets.log([{"id": "logged", "text": "hello world"}])
    before = hidden(tickets)
    report = tickets.add_encoder("short", workers=2)
    assert (report.lacking, report.filled, report.left, report.workers > 0) == (N + 1, N, 1, True)
    assert hidden(tickets) == before
    expected = store.encoder("short").encode([text_of(i) for i in range(N)])
    found = vectors(tickets, "short")
    np.testing.assert_allclose([found[str(i)] for i in range(N)], expected, atol=1e-4)
    job = tickets.jobs()[-1]
    assert (job["kind"], job["counts"]["filled"], sum(job["encoded_by"].values())) == ("fill", N, N)
    assert all(name.endswith(" on cpu") for name in job["encoded_by"])
