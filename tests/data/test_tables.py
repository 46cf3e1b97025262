from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.catalog import Catalog
from raystore.data import tables as tables_module
from raystore.data.collection import CollectionTable
from raystore.data.fence import Fence
from raystore.data.sql import SqlEngine
from raystore.data.tables import SourceTable, open_table, register_table, table_names
from raystore.errors import AlreadyExists, InvalidArguments, InvalidName, LeaseLost, TableNotFound
from tests.data.toy import make_tickets

CANARY = "canary-8c1f"
ROWS = [{"ticket": "a", "outcome": "refund"}, {"ticket": "b", "outcome": "none"}]


def rows_of(table: SourceTable) -> list[dict]:
    return table.to_arrow().to_pylist()


def refusal(catalog: Catalog, data: object, **keys: object) -> str:
    with pytest.raises(InvalidArguments) as refused:
        register_table(catalog, "outcomes", data, **keys)
    return str(refused.value)


def test_a_table_is_its_rows_and_its_keys(catalog: Catalog) -> None:
    table = register_table(catalog, "outcomes", ROWS, id="ticket")
    assert (table.version, table.n_rows, table.id, table.subject) == (1, 2, "ticket", None)
    assert table.columns == {"ticket": "string", "outcome": "string"}
    assert rows_of(table) == ROWS
    assert table_names(catalog) == ["outcomes"]
    assert repr(table) == "<table outcomes version 1: 2 rows, ticket, outcome>"


def test_only_the_chosen_columns_are_kept_beside_the_keys(catalog: Catalog, tmp_path: Path) -> None:
    data = [{"ticket": "a", "body": CANARY, "outcome": "refund"}]
    table = register_table(catalog, "outcomes", data, id="ticket", columns=["outcome"])
    assert rows_of(table) == [{"ticket": "a", "outcome": "refund"}]
    files = [p for p in catalog.layout.root.rglob("*") if p.is_file()]
    assert [p for p in files if CANARY.encode() in p.read_bytes()] == []
    assert refusal(catalog, data, columns=["topic"]) == (
        "register_table('outcomes'): there is no column 'topic' (columns=); there are: ticket, body, outcome."
    )


def test_a_new_version_holds_exactly_its_data_and_the_old_one_stays(catalog: Catalog) -> None:
    newer = [{"ticket": "b", "outcome": "refund"}, {"ticket": "c", "outcome": "none"}]
    register_table(catalog, "outcomes", ROWS, id="ticket")
    assert register_table(catalog, "outcomes", newer, id="ticket").version == 2
    third = register_table(catalog, "outcomes", newer[:1], id="ticket")
    assert third.version == 3
    assert [rows_of(open_table(catalog, "outcomes", n)) for n in (1, 2, 3)] == [ROWS, newer, newer[:1]]
    assert rows_of(open_table(catalog, "outcomes")) == newer[:1]


def test_the_same_data_makes_no_new_version(catalog: Catalog, tmp_path: Path) -> None:
    register_table(catalog, "outcomes", ROWS, id="ticket")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet", row_group_size=1)
    same: list[object] = [ROWS, pd.DataFrame(ROWS), pa.Table.from_pylist(ROWS), tmp_path / "t.parquet"]
    assert [register_table(catalog, "outcomes", data, id="ticket").version for data in same] == [1] * 4
    assert register_table(catalog, "outcomes", ROWS, id="ticket", subject="ticket").version == 2
    assert register_table(catalog, "outcomes", ROWS[::-1], id="ticket", subject="ticket").version == 3


def test_every_kind_of_input_gives_the_same_table(catalog: Catalog, tmp_path: Path) -> None:
    rows = [
        {"ticket": "a", "n": 1, "score": 1.5, "closed": True, "day": date(2026, 1, 2), "at": datetime(2026, 1, 2, 3)},
        {"ticket": "b", "n": 2, "score": None, "closed": False, "day": None, "at": None},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(
        "ticket,n,score,closed,day,at\na,1,1.5,true,2026-01-02,2026-01-02 03:00:00\nb,2,,false,,\n"
    )
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    inputs = {
        "rows": rows,
        "arrow": table,
        "views": table.set_column(0, "ticket", table.column("ticket").cast(pa.string_view())),
        "coded": table.set_column(0, "ticket", table.column("ticket").dictionary_encode()),
        "pandas": pd.DataFrame(rows),
        "parquet": tmp_path / "t.parquet",
        "csv": str(tmp_path / "t.csv"),
        "jsonl": [tmp_path / "t.jsonl"],
    }
    for name, data in inputs.items():
        found = rows_of(register_table(catalog, name, data, id="ticket"))
        assert found == rows, name


def test_rows_of_several_files_become_one_table(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ticket,n\na,1\n")
    (tmp_path / "b.csv").write_text("ticket,note\nb,late\n")
    found = rows_of(register_table(catalog, "outcomes", tmp_path, id="ticket"))
    assert found == [{"ticket": "a", "n": 1, "note": None}, {"ticket": "b", "n": None, "note": "late"}]


def test_a_late_row_of_another_type_makes_a_column_of_text(catalog: Catalog, tmp_path: Path) -> None:
    numbers = "".join(f"{i},{i}\n" for i in range(30_000))
    (tmp_path / "t.csv").write_text(f"ticket,n\n{numbers}late,x\n")
    table = register_table(catalog, "outcomes", tmp_path / "t.csv", id="ticket")
    assert table.columns == {"ticket": "string", "n": "string"}
    assert rows_of(table)[-1] == {"ticket": "late", "n": "x"}


def test_json_values_of_several_types_are_refused(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"ticket": "a", "n": 1, "none": null}\n{"ticket": "b", "n": "x"}\n')
    assert refusal(catalog, path) == f"register_table('outcomes'): column 'n' of '{path}' holds values of several types."
    path.write_text('{"ticket": "a", "none": null}\n')
    assert rows_of(register_table(catalog, "outcomes", path)) == [{"ticket": "a", "none": None}]


def test_a_key_that_only_some_rows_have_is_a_column(catalog: Catalog) -> None:
    found = rows_of(
        register_table(catalog, "outcomes", [{"ticket": "a"}, {"ticket": "b", "outcome": "refund"}], id="ticket")
    )
    assert found == [{"ticket": "a", "outcome": None}, {"ticket": "b", "outcome": "refund"}]


def test_integer_keys_become_strings_so_that_they_join(catalog: Catalog) -> None:
    table = register_table(
        catalog, "outcomes", pa.table({"t": pa.array([7, None], pa.int32()), "c": [1, 2]}), id="t", subject="c"
    )
    assert rows_of(table) == [{"t": "7", "c": "1"}, {"t": None, "c": "2"}]


def test_a_column_may_be_added_and_left_out_again(catalog: Catalog) -> None:
    wide = [{"ticket": "a", "outcome": "x", "note": "late"}]
    register_table(catalog, "outcomes", ROWS, id="ticket")
    assert rows_of(register_table(catalog, "outcomes", wide, id="ticket")) == wide
    third = register_table(catalog, "outcomes", [{"ticket": "a"}], id="ticket")
    assert rows_of(third) == [{"ticket": "a"}]
    assert [rows_of(open_table(catalog, "outcomes", n)) for n in (1, 2)] == [ROWS, wide]
    found = SqlEngine(catalog, lambda name: None).run("SELECT * FROM outcomes AT (VERSION => 2)").to_dicts()
    assert found == wide


def test_a_column_that_changed_its_type_is_refused_and_the_old_version_stays(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", [{"ticket": "a", "n": 1, "m": 1}], id="ticket")
    said = refusal(catalog, [{"ticket": "a", "n": "one", "m": 1.5}], id="ticket")
    assert said == (
        "register_table('outcomes'): column 'n' is string, but was int64 in earlier versions; "
        "column 'm' is double, but was int64 in earlier versions; register it under a new name, or cast the columns."
    )
    assert rows_of(open_table(catalog, "outcomes")) == [{"ticket": "a", "n": 1, "m": 1}]


def test_everything_wrong_with_the_columns_is_said_at_once(catalog: Catalog) -> None:
    table = pa.table(
        {"_row": [1], "a.b": [1], "Note": ["x"], "note": ["y"], "span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}
    )
    assert refusal(catalog, table, id="ticket") == (
        "register_table('outcomes'): there is no column 'ticket'; there are: _row, a.b, Note, note, span; "
        "column '_row' starts with '_', which is reserved; "
        "column 'a.b' holds a '.', which is reserved; "
        "columns 'Note' and 'note' differ in case only or not at all, which SQL does not tell apart; "
        "column 'span' is month_day_nano_interval, which a table cannot keep."
    )
    twice = pa.table([["x"], ["y"]], names=["ticket", "ticket"])
    assert "columns 'ticket' and 'ticket' differ in case only or not at all" in refusal(catalog, twice, id="ticket")
    assert refusal(catalog, [{"ticket": 1.5}], id="ticket") == (
        "register_table('outcomes'): key column 'ticket' is double, expected strings or integers."
    )
    assert table_names(catalog) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (7, "data is int, expected a path, an Arrow table, a pandas DataFrame or a list of dicts"),
        ({"ticket": ["a"]}, "data is dict, expected a path, an Arrow table, a pandas DataFrame or a list of dicts"),
        ([], "no file was named"),
        ([{"n": 1}, {"n": CANARY}], "the rows do not make columns of one type each (ArrowInvalid)"),
        ([{1: "x"}], "the rows do not make columns of one type each (TypeError)"),
    ],
)
def test_data_that_is_no_table_is_refused_without_quoting_it(catalog: Catalog, data: object, problem: str) -> None:
    assert refusal(catalog, data) == f"register_table('outcomes'): {problem}."


@pytest.mark.parametrize(("name", "kind"), [("t.parquet", "ArrowInvalid"), ("t.jsonl", "InvalidInputException")])
def test_a_file_that_cannot_be_read_is_refused_without_quoting_it(
    catalog: Catalog, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_text(f'{{"a": {CANARY}\n' * 3)
    assert refusal(catalog, tmp_path / name) == f"register_table('outcomes'): '{tmp_path / name}' cannot be read ({kind})."


def test_names_are_shared_with_collections(catalog: Catalog) -> None:
    make_tickets(catalog.layout)
    with pytest.raises(AlreadyExists) as taken:
        register_table(catalog, "tickets", ROWS)
    assert str(taken.value) == "collection 'tickets' exists already. Collections and tables share one SQL namespace."
    register_table(catalog, "outcomes", ROWS)
    with pytest.raises(AlreadyExists) as taken:
        CollectionTable.create(catalog.layout, "outcomes", {"ab" * 32: 3})
    assert str(taken.value) == "table 'outcomes' exists already. Collections and tables share one SQL namespace."
    with pytest.raises(InvalidName):
        register_table(catalog, "My table", ROWS)


def test_a_table_or_version_that_is_not_there_is_said_with_those_that_are(catalog: Catalog) -> None:
    register_table(catalog, "outcomes", ROWS)
    register_table(catalog, "outcomes", ROWS[:1])
    with pytest.raises(TableNotFound) as missing:
        open_table(catalog, "refunds")
    assert str(missing.value) == f"no table 'refunds' in store '{catalog.layout.root}'. It has: 'outcomes'."
    with pytest.raises(TableNotFound) as missing:
        open_table(catalog, "outcomes", 3)
    assert str(missing.value) == (
        f"no table 'outcomes version 3' in store '{catalog.layout.root}'. It has: 'outcomes version 1', 'outcomes version 2'."
    )


@pytest.mark.parametrize("announced", [0, 1, 2])
def test_a_version_that_was_written_but_never_announced_is_cleared_by_the_next_writer(
    catalog: Catalog, announced: int
) -> None:
    versions = [[{"ticket": "a", "n": i}, {"ticket": f"only-{i}", "n": i}] for i in range(announced)]
    for rows in versions:
        register_table(catalog, "outcomes", rows, id="ticket")
    crashed = pa.Table.from_pylist([{"ticket": "crashed", "n": 99}])
    with Fence(catalog.layout.table_fence("outcomes")).hold() as lease:
        tables_module._write_version(catalog, "outcomes", crashed, announced, lease, "test")
    for n, rows in enumerate(versions, 1):
        assert rows_of(open_table(catalog, "outcomes", n)) == rows
    after = [{"ticket": "a", "n": 7}]
    assert register_table(catalog, "outcomes", after, id="ticket").version == announced + 1
    for n, rows in enumerate([*versions, after], 1):
        assert rows_of(open_table(catalog, "outcomes", n)) == rows
    assert open_table(catalog, "outcomes").dataset().count_rows("ticket = 'crashed'") == 0


@pytest.mark.parametrize("announced", [0, 1])
@pytest.mark.parametrize("moment", ["before the rows", "before the record"])
def test_a_writer_that_lost_its_lease_announces_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, announced: int, moment: str
) -> None:
    """It is overtaken where it stands, by a writer that finishes; then it goes on."""
    if announced:
        register_table(catalog, "outcomes", ROWS, id="ticket")
    write = tables_module._write_version
    other = [{"ticket": "other", "outcome": "x"}]
    fence = catalog.layout.table_fence("outcomes")

    def overtake() -> None:
        monkeypatch.setattr(tables_module, "_write_version", write)
        # As another process would: past the queue of this one's threads, and without waiting for the first lease.
        monkeypatch.setattr(tables_module, "Fence", lambda _: Fence(fence / ".." / fence.name))
        register_table(catalog, "outcomes", other, id="ticket")

    def stalled(*arguments: object) -> None:
        if moment == "before the rows":
            overtake()
        write(*arguments)
        if moment == "before the record":
            overtake()

    monkeypatch.setattr(tables_module, "_write_version", stalled)
    monkeypatch.setattr(tables_module, "Fence", lambda folder: Fence(folder, lease_s=0.0))
    with pytest.raises(LeaseLost):
        register_table(catalog, "outcomes", [{"ticket": "late", "outcome": "y"}], id="ticket")
    found = open_table(catalog, "outcomes")
    assert found.version == announced + 1
    assert rows_of(found) == other
    again = register_table(catalog, "outcomes", [{"ticket": "late", "outcome": "y"}], id="ticket")
    assert (again.version, rows_of(again)) == (announced + 2, [{"ticket": "late", "outcome": "y"}])


columns = st.sampled_from(["int", "text", "flag"])
cells = {"int": st.none() | st.integers(-9, 9), "text": st.none() | st.text(max_size=4), "flag": st.none() | st.booleans()}
kinds = {"int": pa.int64(), "text": pa.string(), "flag": pa.bool_()}


@given(st.data())
def test_the_digest_of_a_table_does_not_hang_on_how_it_was_cut(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 12))
    table = pa.table(
        {
            name: pa.array(data.draw(st.lists(cells[name], min_size=rows, max_size=rows)), kind)
            for name, kind in kinds.items()
        }
    )
    cut = data.draw(st.integers(0, rows))
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    padded = pa.concat_tables([table.slice(0, 1), table]).slice(1)
    assert tables_module._digest(table) == tables_module._digest(pieces) == tables_module._digest(padded)
    changed = table.set_column(0, "int", pa.array([(v or 0) + 1 for v in table.column("int").to_pylist()], pa.int64()))
    assert tables_module._digest(changed) != tables_module._digest(table)
    assert tables_module._digest(table.rename_columns(["a", "b", "c"])) != tables_module._digest(table)
