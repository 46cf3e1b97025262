"""Puts a fine-tuned model into a store: its folder, and the encoder that it is. No name means it before it is proven.

    models/<name>/<n>/       what `Trainable.save` writes
    encoders/<fp12>/         the encoder, with a source of its own: store:models/<name>/<n>

Costs a save, a load, golden vectors and an export: 10 to 20 s for MiniLM. Knows no labels and no proof.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystore.catalog import Catalog
from raystore.encoders.card import read_card
from raystore.encoders.model import Options
from raystore.encoders.passport import Card
from raystore.encoders.records import add_source, check_encoder_name, source_record, sources_of
from raystore.encoders.registry import Encoder, Encoders
from raystore.encoders.source import find_source, store_source
from raystore.fine_tune.model.trainable import Trainable
from raystore.layout import disk_full_is_said, numbers, publish, staging


def publish_model(
    catalog: Catalog,
    name: str,
    trainable: Trainable,
    *,
    base_name: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> tuple[Encoder, int]:
    """The encoder, which no name means yet, and the number n of its folder models/<name>/<n>.

    A name comes to mean it with `proof.live.make_live`. It loads wherever the store is moved to. A model that stands there already,
    since a call that published it was killed, is not put there again.

    Args:
        base_name: what the base is called here; None is where its files came from.
        training: recipe, digest of the data, augmentations: kept on the card, outside the fingerprint.

    Raises:
        InvalidName, ModelUnusable, GoldenMoved, DiskFull.
    """
    check_encoder_name(name)
    options = _options(trainable)
    layout = catalog.layout
    with disk_full_is_said(layout.models(name), "saving a fine-tuned model"), staging(layout.tmp) as stage:
        folder = stage / "model"
        trainable.save(folder, keep_base=trainable.recipe.keep_base)
        number = _standing(folder, layout.models(name)) or publish(folder, layout.models(name))
    source = find_source(store_source(f"models/{name}/{number}"), root=layout.root)
    encoder = Encoders(catalog).admit(name, source, options, _card(trainable, base_name, training))
    if source.model not in [about["model"] for about in sources_of(catalog, encoder.fingerprint)]:
        add_source(catalog, encoder.fingerprint, source_record(source, options))
    return encoder, number


def _standing(folder: Path, models: Path) -> int | None:
    """The newest number in `models` whose files are those of `folder`, byte for byte."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())

    def same(other: Path) -> bool:
        theirs = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
        return theirs == files and all(filecmp.cmp(folder / file, other / file, shallow=False) for file in files)

    return next((number for number in reversed(numbers(models)) if same(models / str(number))), None)


def _options(trainable: Trainable) -> Options:
    """The base's, with as many dimensions as it was opened with, whatever its own files say of that."""
    text = trainable.passport.text
    return trainable.options.model_copy(update={"dimensions": text.dimensions if text else None})


def _card(trainable: Trainable, base_name: str | None, training: Mapping[str, Any] | None) -> Card:
    card = read_card(trainable.source.folder, objective="contrastive")
    return card.model_copy(
        update={
            "base_model": base_name or trainable.source.model,
            "tuned_from": trainable.passport.fingerprint,
            "training": {"recipe": trainable.recipe.model_dump(mode="json"), **(training or {})},
        }
    )
