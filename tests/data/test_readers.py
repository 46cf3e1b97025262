from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.readers import Reference, find_files, parse_text, plan, read, reference
from raystore.errors import InvalidArguments

CANARY = "canary-8c1f"


def read_all(
    path: Path, columns: list[str], *, workers: int = 1, batch_rows: int = 7
) -> tuple[dict[str, list], dict[int, str]]:
    """The columns of all slices together and the unreadable rows; row numbers must be one run."""
    (file,), references = plan([str(path)], workers, "test")
    values: dict[str, list] = {name: [] for name in columns}
    unreadable: dict[int, str] = {}
    row = 0
    for slice_ in references:
        assert slice_.first_row == row
        for block in read(slice_, columns, batch_rows):
            assert block.first_row == row
            assert 0 < block.n_rows <= batch_rows
            row += block.n_rows
            unreadable |= block.unreadable
            for name in columns:
                assert len(block.columns[name]) == block.n_rows
                values[name] += block.columns[name]
        assert row == slice_.first_row + slice_.n_rows
    assert row == file.n_rows
    return values, unreadable


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArguments) as refused:
        plan([str(path)], 1, "embed into 'tickets'")
    return str(refused.value)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a few rows, so that a small file has many; the real sizes are 1,024 to 16,384."""
    monkeypatch.setattr(reference, "MIN_SLICE_ROWS", 4)
    monkeypatch.setattr(reference, "MAX_SLICE_ROWS", 8)


# --- which files -------------------------------------------------------------------------------------------------------


def test_files_folders_and_patterns_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", "c.JSONL", "notes.txt", "x [1].csv"):
        (tmp_path / name).touch()
    found = [Path(p).name for p in find_files(tmp_path, "t")]
    assert found == ["a.parquet", "b.csv", "c.JSONL", "x [1].csv"]
    patterns = [tmp_path / "x [1].csv", str(tmp_path / "*.csv")]
    assert [Path(p).name for p in find_files(patterns, "t")] == ["x [1].csv", "b.csv"]


def test_everything_that_is_wrong_with_the_paths_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "\udcff.csv").touch()  # a name of one byte that is no UTF-8
    with pytest.raises(InvalidArguments) as refused:
        find_files([tmp_path / "no.csv", tmp_path / "notes.txt", tmp_path / "empty", str(tmp_path / "?.csv")], "embed")
    assert str(refused.value) == (
        f"embed: no file matches '{tmp_path}/no.csv'; "
        f"'{tmp_path}/notes.txt' is none of .parquet, .pq, .csv, .tsv, .jsonl, .ndjson; "
        f"no file matches '{tmp_path}/empty'; "
        f"the name of '{tmp_path}/\\udcff.csv' is not valid UTF-8."
    )
    with pytest.raises(InvalidArguments, match=r"embed: the list is empty, it names no file\."):
        find_files([], "embed")


# --- Parquet -----------------------------------------------------------------------------------------------------------


def test_parquet_is_read_across_row_groups_and_text_types(tmp_path: Path) -> None:
    words = [f"wörd {i}" for i in range(50)]
    table = pa.table(
        {
            "plain": words,
            "large": pa.array(words, pa.large_string()),
            "coded": pa.array(words).dictionary_encode(),
            "a.b": pa.array([None if i % 3 else i for i in range(50)], pa.int16()),
            "stamp": pa.array(range(50), pa.timestamp("ms")),
            "list": [[i] for i in range(50)],
        }
    )
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=17)
    (file,), references = plan([str(path)], 1, "test")
    assert file.columns == {
        "plain": "string", "large": "string", "coded": "string", "a.b": "int64", "stamp": "timestamp",
        "list": "list<element: int64>",
    }  # fmt: skip
    assert [(r.row_group, r.first_row, r.n_rows) for r in references] == [(0, 0, 17), (1, 17, 17), (2, 34, 16)]
    values, unreadable = read_all(path, ["plain", "large", "coded", "a.b"])
    assert values["plain"] == values["large"] == values["coded"] == words
    assert values["a.b"] == table.column("a.b").to_pylist()
    assert unreadable == {}


def test_parquet_text_that_is_not_utf8_spoils_its_own_row_alone(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", None, b"also fine"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers(), raw.null_count)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"t": text}), path)
    assert read_all(path, ["t"])[0]["t"] == ["fine", "\udcff\udcfe", None, "also fine"]


@pytest.mark.parametrize("name", ["t.parquet", "t.pq"])
def test_a_file_that_is_no_parquet_is_refused_without_quoting_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(CANARY * 10)
    said = refusal(path)
    assert said == f"embed into 'tickets': '{path}' cannot be read as parquet (ArrowInvalid)."


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 60), group=st.integers(1, 30), step=st.integers(1, 9), batch=st.integers(1, 20))
def test_parquet_slices_give_every_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group: int, step: int, batch: int
) -> None:
    path = tmp_path_factory.mktemp("p") / "t.parquet"
    table = pa.table({"n": pa.array(range(rows), pa.int64()), "t": [str(i) for i in range(rows)]})
    pq.write_table(table, path, row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_ROWS", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", step)
        values, _ = read_all(path, ["t", "n"], workers=3, batch_rows=batch)
    assert values == pq.read_table(path).select(["t", "n"]).to_pydict()


# --- CSV, TSV ----------------------------------------------------------------------------------------------------------


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_quotes_newlines_and_a_byte_order_mark(tmp_path: Path, small_slices: None) -> None:
    text = '\ufeffid,text\r\n1,"a, b"\r\n2,"two\nlines"\r\n3,"he said ""hi"""\r\n\r\n4,5\'9" tall\r\n5,"stray"quote\r\n6,'
    values, unreadable = read_all(write(tmp_path / "t.csv", text), ["id", "text"])
    assert values["id"] == list("123456")
    assert values["text"] == ["a, b", "two\nlines", 'he said "hi"', "5'9\" tall", "strayquote", ""]
    assert unreadable == {}


def test_tsv_is_split_at_tabs(tmp_path: Path) -> None:
    values, _ = read_all(write(tmp_path / "t.tsv", 'id\ttext\n1\ta, b\n2\t"with\ttab"\n'), ["text"])
    assert values["text"] == ["a, b", "with\ttab"]


def test_a_csv_row_with_other_fields_than_the_header_is_unreadable_alone(tmp_path: Path) -> None:
    values, unreadable = read_all(write(tmp_path / "t.csv", f"id,text\n1,a\n2\n3,b,{CANARY}\n4,c\n"), ["id", "text"])
    assert values["id"] == ["1", None, None, "4"]
    assert unreadable == {1: "the row has 1 fields, the header 2", 2: "the row has 3 fields, the header 2"}


def test_a_carriage_return_outside_quotes_spoils_its_own_row_alone(tmp_path: Path) -> None:
    values, unreadable = read_all(write(tmp_path / "t.csv", f'id,text\n1,"a\rb"\n2,{CANARY}\rd\n3,c\n'), ["id", "text"])
    assert values == {"id": ["1", None, "3"], "text": ["a\rb", None, "c"]}
    assert unreadable == {1: "the row holds a carriage return outside quotes"}


def test_lines_that_end_in_carriage_returns_alone_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"id,text\r1,{CANARY}\r")
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as csv (Error)."


def test_csv_bytes_that_are_not_utf8_spoil_their_own_field_alone(tmp_path: Path) -> None:
    values, unreadable = read_all(write(tmp_path / "t.csv", b"id,text\n1,gr\xf6sse\n2,fine\n"), ["id", "text"])
    assert values == {"id": ["1", "2"], "text": ["gr\udcf6sse", "fine"]}
    assert unreadable == {}


def test_a_header_that_is_not_utf8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    (file,), _ = plan([str(write(tmp_path / "t.csv", b"id,gr\xf6sse\n1,2\n"))], 1, "test")
    assert list(file.columns) == ["id", "gr\\xf6sse"]


def test_a_field_of_a_megabyte_is_a_field(tmp_path: Path) -> None:
    long = "x" * 2**20
    values, _ = read_all(write(tmp_path / "t.csv", f'id,text\n1,"{long}"\n2,b\n'), ["text"])
    assert values["text"] == [long, "b"]


@pytest.mark.parametrize("rows", [0, 3])
def test_a_quote_that_never_closes_is_refused_before_it_swallows_the_rows_behind_it(tmp_path: Path, rows: int) -> None:
    good = "".join(f"{i},fine\n" for i in range(rows))
    path = write(tmp_path / "t.csv", f'id,text\n{good}9,"{CANARY}\n10,lost\n11,lost\n')
    assert refusal(path) == (
        f"embed into 'tickets': a quote that opens in row {rows} of '{path}' never closes, "
        "so the rows behind it cannot be told apart."
    )


def test_a_quote_that_never_closes_in_the_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'id,"text\n1,a\n')
    assert "a quote that opens in the header of" in refusal(path)


@pytest.mark.parametrize("text", ["", "\n\n", "id,text", "id,text\n", '"id","text"\n\n\n'])
def test_a_csv_without_rows_has_none(tmp_path: Path, text: str) -> None:
    (file,), references = plan([str(write(tmp_path / "t.csv", text))], 1, "test")
    assert (file.n_rows, references) == (0, [])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", ""], "int64"),
        (["1", "2.5", "-1e3", ".5", "3."], "float64"),
        (["true", "False", "TRUE"], "bool"),
        (["007", "12"], "string"),
        (["1_000"], "string"),
        (["12345678901234567890"], "string"),
        (["nan", "inf"], "string"),
        (["1", "one"], "string"),
        (["١٢"], "string"),
        ([" 1"], "string"),
        (["", ""], "string"),
    ],
)
def test_csv_columns_are_numbers_only_where_that_loses_nothing(tmp_path: Path, values: list[str], kind: str) -> None:
    rows = "".join(f"{value},x\n" for value in values)
    (file,), _ = plan([str(write(tmp_path / "t.csv", f"v,w\n{rows}"))], 1, "test")
    assert file.columns == {"v": kind, "w": "string"}


fields = st.text(st.sampled_from("ab,\"\n\r\t'é "), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(fields, fields), max_size=30),
    step=st.integers(1, 5),
    batch=st.integers(1, 9),
    kind=st.sampled_from(["csv", "tsv"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_slices_give_every_row_once_as_the_csv_module_reads_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list, step: int, batch: int, kind: str, end: str
) -> None:
    text = io.StringIO(newline="")
    # The module leaves a lone carriage return unquoted where its lines end otherwise.
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter="," if kind == "csv" else "\t", lineterminator=end, quoting=quoting)
    writer.writerows([("one", "two"), *rows])
    path = tmp_path_factory.mktemp("c") / f"t.{kind}"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as file:
        wanted = [r for r in csv.reader(file, delimiter="," if kind == "csv" else "\t") if r][1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_ROWS", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", 2 * step)
        values, unreadable = read_all(path, ["one", "two"], workers=2, batch_rows=batch)
    assert list(map(list, zip(values["one"], values["two"], strict=True))) == wanted
    assert unreadable == {}


# --- JSONL -------------------------------------------------------------------------------------------------------------


def test_jsonl_lines_that_are_no_objects_are_unreadable_alone(tmp_path: Path, small_slices: None) -> None:
    lines = [
        '{"id": 1, "t": "a"}',
        f'{{"id": 2, "t": "{CANARY}',
        "",
        "[1]",
        '"text"',
        "[" * 10_000,
        '{"t": "ü\\ud800"}',
        "null",
    ]
    path = tmp_path / "t.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"id": "\xff", "t": null}\n')
    values, unreadable = read_all(path, ["id", "t"])
    assert values["id"] == [1, None, None, None, None, None, None, "\udcff"]
    assert values["t"] == ["a", None, None, None, None, "ü\ud800", None, None]
    assert unreadable == dict.fromkeys([1, 2, 3, 4, 6], "the line is no JSON object")


def test_jsonl_columns_are_those_of_any_row(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": "x", "a": 2.5}, {"c": True, "d": [1], "e": None, "f": 1}, {"f": "1", "g": {}}]
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    (file,), _ = plan([str(path)], 1, "test")
    mixed = "of several types, a list or an object"
    assert file.columns == {
        "a": "float64", "b": "string", "c": "bool", "d": mixed, "e": "string", "f": mixed, "g": mixed
    }  # fmt: skip


values = st.none() | st.integers(-5, 5) | st.text(max_size=5) | st.floats(allow_nan=False) | st.booleans()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(["a", "b"]), values), max_size=30),
    step=st.integers(1, 5),
    batch=st.integers(1, 9),
)
def test_jsonl_slices_give_every_row_once_as_the_json_module_reads_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list, step: int, batch: int
) -> None:
    path = tmp_path_factory.mktemp("j") / "t.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_ROWS", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", 2 * step)
        found, unreadable = read_all(path, ["a", "b"], workers=2, batch_rows=batch)
    assert found == {name: [row.get(name) for row in rows] for name in ("a", "b")}
    assert unreadable == {}


# --- references and values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "workers", "sizes"), [(100, 4, [100]), (40_000, 1, [10_000] * 4), (200_000, 1, None)])
def test_slices_are_neither_tiny_nor_huge(tmp_path: Path, rows: int, workers: int, sizes: list[int] | None) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(rows)}), path)
    _, references = plan([str(path)], workers, "test")
    found = [r.n_rows for r in references]
    assert sum(found) == rows
    assert found == sizes if sizes else max(found) == 16_384


def test_a_reference_holds_no_content(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"id,text\n1,{CANARY}\n")
    _, (reference,) = plan([str(path)], 1, "test")
    assert reference == Reference(str(path), "csv", 0, 1, 8, 8 + len(f"1,{CANARY}\n"))


@pytest.mark.parametrize(
    ("value", "kind", "parsed"),
    [
        ("5", "int64", 5),
        ("5", "float64", 5.0),
        ("", "int64", None),
        ("", "string", ""),
        ("True", "bool", True),
        (7, "string", 7),
    ],
)
def test_a_csv_field_takes_its_columns_type(value: object, kind: str, parsed: object) -> None:
    assert parse_text(value, kind) == parsed


@pytest.mark.parametrize("kind", ["int64", "float64", "bool"])
def test_a_csv_field_that_does_not_read_is_not_quoted(kind: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_text(CANARY, kind)
    assert str(error.value) == f"does not read as {kind}"
