"""The command line as a function: the real `main` with an argument list, and what it printed."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
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


@dataclass(frozen=True)
class Studied:
    """A store on disk with 240 rows in time, whose vectors lie in three groups; tables, two snapshots, and heads of every task."""

    root: Path
    folder: Path


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Studied:
    """Made from given vectors by the Python API; tests add names of their own and change none of these."""
    import raystore

    folder = tmp_path_factory.mktemp("studied")
    rng = np.random.default_rng(20261120)
    groups = ["card", "login", "money"]
    centres = rng.normal(size=(3, 32))
    which = rng.integers(0, 3, 240)
    vectors = centres[which] + rng.normal(size=(240, 32)) * 1.5
    store = raystore.open(folder / "store")
    encoder = store.encoders.register("tiny", model=str(tiny_model))
    items = store.create_collection("items", encoder="tiny", columns={"product": "string", "price": "float64"})
    start = datetime(2026, 1, 1, tzinfo=UTC)
    items.log(
        [
            {
                "id": f"i-{i:03}", "vector": vectors[i], "subject": f"c-{i % 120}", "time": start + timedelta(hours=6 * i),
                "product": groups[g], "price": float(vectors[i][0]),
            }
            for i, g in enumerate(which.tolist())
        ],
        fingerprint=encoder.fingerprint,
    )  # fmt: skip
    labels = [(f"i-{i:03}", groups[g]) for i, g in enumerate(which.tolist())]
    (folder / "labels.csv").write_text("item,label\n" + "".join(f"{i},{label}\n" for i, label in labels))
    store.register_table("labels", folder / "labels.csv", id="item")
    sql = "SELECT t.id, l.label FROM items t JOIN labels l ON l.item = t.id"
    split = {"train": 0.6, "val": 0.2, "test": 0.2}
    store.snapshot("topics", sql, split=split)
    moved = [(i, "login" if n < 12 else label) for n, (i, label) in enumerate(labels)]
    store.register_table("labels", [{"item": i, "label": label} for i, label in moved], id="item")
    store.snapshots.refresh("topics")
    for l2 in (1, 100):
        store.train_head("topics", snapshot="topics@1", workers=0, l2=l2)
    store.snapshot("price", "SELECT id, price AS label FROM items", task="number", split=split)
    store.train_head("price", snapshot="price", workers=0)
    several = "SELECT id, list_distinct([product, CASE WHEN price > 0 THEN 'dear' ELSE product END]) AS label FROM items"
    store.snapshot("tags", several, task="labels", split=split)
    store.train_head("tags", snapshot="tags", workers=0)
    return Studied(store.root, folder)
