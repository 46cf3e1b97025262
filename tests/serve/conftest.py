"""Small stores with everything that is served: tiny real encoders, collections with rows, heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.encoders import Encoders
from raystore.secret import load_store_key
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.train.fit import train_head
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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """Tests only add to it: ids of their own, deployments of their own."""
    return make_store(tmp_path_factory.mktemp("served") / "a store", tiny_model)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """As `make_house`; tests only add to it."""
    return make_house(tmp_path_factory.mktemp("house"), tiny_model)


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
