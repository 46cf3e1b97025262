"""The command line as a function: the real `main` with an argument list, and what it printed."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raystore.cli import main

TEXTS = ["the card never arrived", "card is a limit", "money is blue", "the money of the world", "hello world", "blue text"]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture(name="cli")
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """`cli("embed", ..., stdin="...")`; exits are returned, never raised."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str | os.PathLike[str], stdin: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["raystore", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@dataclass(frozen=True)
class Made:
    """A store on disk with a collection of 60 rows, labels, a snapshot, a head and an index."""

    root: Path
    file: Path
    model: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Made:
    """Made by the Python API; tests add names of their own and change none of these."""
    import raystore

    folder = tmp_path_factory.mktemp("a store of 'quotes' and ü")
    file = folder / "tickets.parquet"
    texts = [f"{TEXTS[i % 6]} {'never ' * (i % 5)}{i}" for i in range(60)]
    labels = ["card", "card", "money", "money", "other", "other"]
    pq.write_table(
        pa.table(
            {
                "ticket": [f"t-{i}" for i in range(60)],
                "body": texts,
                "product": [labels[i % 6] for i in range(60)],
                "customer": [f"c-{i}" for i in range(60)],
            }
        ),
        file,
    )
    store = raystore.open(folder / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    tickets = store.create_collection("tickets", encoder="tiny", columns={"product": "string"})
    tickets.embed(file, text="body", id="ticket", subject="customer", keep=["product"], workers=0)
    store.register_table("outcomes", [{"item": f"t-{i}", "label": labels[i % 6]} for i in range(60)], id="item")
    sql = "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id"
    store.train_head("refunds", snapshot=store.snapshot("refunds", sql), workers=0)
    tickets.build_index(shards=2, workers=0)
    return Made(store.root, file, tiny_model)
