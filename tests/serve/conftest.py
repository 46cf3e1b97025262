"""Small stores with everything that is served: tiny real encoders, collections with rows, heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.encoders import Encoders
from raystore.layout import Layout
from raystore.secret import load_store_key
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.train.fit import train_head
from raystore.train.heads import Kind
from raystore.train.source import ArraySource, Examples
from tests.pictures import PICTURES, save_clip, save_vit

CARD = ["the card never arrived", "card never arrived hello", "my card is limit", "the card is a limit", "card and card"]
MONEY = ["return the money", "money money return", "the money is long", "return of the money", "a money sentence"]
COLOUR = ["blue and red", "red and blue", "the blue world", "a red world", "hello red blue"]


@dataclass(frozen=True)
class Served:
    root: Path
    fingerprint: str
    label: str

    @property
    def rooms(self) -> Rooms:
        return Rooms(self.root)


def recorded(rooms: Rooms, name: str, head: str, **more: Any) -> DeploymentRecord:
    """The record of a deployment with that head; `more` as the file has it."""
    return rooms.record(name, DeploymentSpec.model_validate({"head": head, **more}))


def durable(layout: Layout, name: str) -> CollectionTable:
    """The collection with all that was acknowledged, taken in already or not."""
    table = CollectionTable.open(layout, name)
    table.rows.take_in()
    return table


def make_store(root: Path, tiny_model: Path) -> Served:
    layout, about = open_root(root, create=True)
    catalog = Catalog(layout)
    encoder = Encoders(catalog).register("tiny", model=str(tiny_model))
    tickets = CollectionTable.create(layout, "tickets", {encoder.fingerprint: encoder.dim}, {"product": "string"})
    CollectionTable.create(layout, "kept", {encoder.fingerprint: encoder.dim})
    CollectionTable.create(layout, "strange", {"f" * 64: 8})
    texts = [*CARD, *MONEY, *COLOUR]
    rows = [{"id": f"t-{i}", "text": text, "product": "card" if i < 5 else "other"} for i, text in enumerate(texts)]
    RowLog(tickets, encoder.load(threads=1), load_store_key(layout, about["key_id"])).log(rows)
    for classes in (["card", "money"], ["card", "money", "colour"]):
        n = 5 * len(classes)
        labels = np.repeat(np.arange(len(classes)), 5).astype(np.int64)
        examples = Examples(np.asarray(encoder.encode(texts[:n])), labels, np.ones(n, np.float32))
        train_head(
            layout,
            name="refunds",
            kind="linear",
            classes=classes,
            source=ArraySource({"train": examples, "val": examples, "test": examples}),
            fingerprint=encoder.fingerprint,
            encoder_label=encoder.label,
            snapshot={"name": "refunds", "number": 1, "hash": "ab" * 32},
        )
    return Served(root, encoder.fingerprint, encoder.label)


def copy_head(rooms: Rooms, name: str, kind: Kind = "linear") -> None:
    """A head of what refunds@1 learned from, under a name of its own."""
    tiny = rooms.encoders.get("tiny")
    examples = Examples(
        np.asarray(tiny.encode([*CARD, *MONEY])), np.repeat(np.arange(2), 5).astype(np.int64), np.ones(10, np.float32)
    )
    train_head(
        rooms.layout, name=name, kind=kind, classes=["card", "money"],
        source=ArraySource({"train": examples, "val": examples, "test": examples}),
        fingerprint=tiny.fingerprint, encoder_label=tiny.label, snapshot={"name": name, "number": 1, "hash": "ef" * 32},
    )  # fmt: skip


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """Tests only add to it: ids of their own, deployments of their own."""
    return make_store(tmp_path_factory.mktemp("served") / "a store", tiny_model)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """As `make_house`; tests only add to it."""
    return make_house(tmp_path_factory.mktemp("house"), tiny_model)


@dataclass(frozen=True)
class Whole:
    """A store made by the Python API: collection `items` of 400 given vectors in three groups (`group` says which), a snapshot, heads
    `topics@1` and `@2` (classes), `price` (a number), `tags` (labels), `near` (neighbours)."""

    root: Path
    fingerprint: str
    label: str
    vectors: npt.NDArray[np.float32]
    groups: list[str]

    @property
    def rooms(self) -> Rooms:
        return Rooms(self.root)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Whole:
    """Tests only add to it: ids of their own, deployments of their own."""
    return make_whole(tmp_path_factory.mktemp("whole") / "a store", tiny_model)


def make_whole(root: Path, tiny_model: Path) -> Whole:
    import raystore

    rng = np.random.default_rng(20261120)
    names = ["card", "login", "money"]
    which = rng.integers(0, 3, 400)
    vectors = (rng.normal(size=(3, 32))[which] + rng.normal(size=(400, 32)) * 1.2).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    store = raystore.open(root)
    encoder = store.encoders.register("tiny", model=str(tiny_model))
    items = store.create_collection("items", encoder="tiny", columns={"product": "string", "price": "float64"})
    groups = [names[g] for g in which.tolist()]
    facts = zip(vectors, groups, strict=True)
    rows = [{"id": f"i-{i:03}", "vector": v, "product": g, "price": float(v[0])} for i, (v, g) in enumerate(facts)]
    items.log(rows, fingerprint=encoder.fingerprint)
    split = {"train": 0.5, "val": 0.25, "test": 0.25}
    store.snapshot("topics", "SELECT id, product AS label FROM items", split=split)
    for l2 in (1, 1_000):
        store.train_head("topics", snapshot="topics", workers=0, l2=l2)
    store.snapshot("price", "SELECT id, price AS label FROM items", task="number", split=split)
    store.train_head("price", snapshot="price", workers=0)
    several = "SELECT id, list_distinct([product, CASE WHEN price > 0 THEN 'dear' ELSE product END]) AS label FROM items"
    store.snapshot("tags", several, task="labels", split=split)
    store.train_head("tags", snapshot="tags", workers=0)
    store.register_classifier("near", "items", labels="product", k=5)
    return Whole(root, encoder.fingerprint, encoder.label, vectors, groups)


def make_house(folder: Path, tiny_model: Path) -> Served:
    """A store in `folder` whose encoders take texts (tiny), images (photos) and both (clip).

    Collection `album` is of clip, `everything` of all three; head `colours` tells the pictures apart, by photos.
    """
    served = make_store(folder / "a store", tiny_model)
    rooms = served.rooms
    clip = rooms.encoders.register("clip", save_clip(folder / "clip", tiny_model))
    photos = rooms.encoders.register("photos", save_vit(folder / "vit"))
    CollectionTable.create(rooms.layout, "album", {clip.fingerprint: clip.dim}, {"product": "string"})
    every = {served.fingerprint: 32, clip.fingerprint: clip.dim, photos.fingerprint: photos.dim}
    CollectionTable.create(rooms.layout, "everything", every)
    labels = np.array([0, 0, 0, 1, 1, 1], np.int64)
    examples = Examples(np.asarray(photos.encode(PICTURES)), labels, np.ones(6, np.float32))
    train_head(
        rooms.layout,
        name="colours",
        kind="linear",
        classes=["red", "blue"],
        source=ArraySource({"train": examples, "val": examples, "test": examples}),
        fingerprint=photos.fingerprint,
        encoder_label=photos.label,
        snapshot={"name": "colours", "number": 1, "hash": "cd" * 32},
    )
    return served
