"""Puts a fine-tuned model into a store: its folder, and the encoder that it is. No name means it before it is proven.

    models/<name>/<n>/       what `Trainable.save` writes
    encoders/<fp12>/         the encoder, with a source of its own: store:models/<name>/<n>

Costs a save, a load, golden vectors and an export: 10 to 20 s for MiniLM. Knows no labels and no proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raystore.catalog import Catalog
from raystore.encoders.card import read_card
from raystore.encoders.model import Options
from raystore.encoders.passport import Card
from raystore.encoders.records import add_source, check_encoder_name, source_record
from raystore.encoders.registry import Encoder, Encoders
from raystore.encoders.source import find_source, store_source
from raystore.errors import InvalidArguments
from raystore.fine_tune.model.trainable import Trainable
from raystore.layout import disk_full_is_said, publish, staging


def publish_model(
    catalog: Catalog,
    name: str,
    trainable: Trainable,
    *,
    keep_base: float | None = None,
    base_name: str | None = None,
    training: Mapping[str, Any] | None = None,
    dimensions: int | None = None,
) -> tuple[Encoder, int]:
    """The encoder, which no name means yet, and the number n of its folder models/<name>/<n>.

    A name comes to mean it with `proof.live.make_live`. It loads wherever the store is moved to.

    Args:
        keep_base: share of the base's weights; None is the recipe's.
        base_name: what the base is called here; None is where its files came from.
        training: recipe, digest of the data, augmentations: kept on the card, outside the fingerprint.
        dimensions: numbers kept of a text's vector (Matryoshka); None is as many as the base gives.

    Raises:
        InvalidName, InvalidArguments (`dimensions`), ModelUnusable, GoldenMoved, DiskFull.
    """
    check_encoder_name(name)
    options = _options(trainable, dimensions)
    layout = catalog.layout
    kept = trainable.recipe.keep_base if keep_base is None else keep_base
    with disk_full_is_said(layout.models(name), "saving a fine-tuned model"), staging(layout.tmp) as stage:
        folder = stage / "model"
        trainable.save(folder, keep_base=kept)
        number = publish(folder, layout.models(name))
    source = find_source(store_source(f"models/{name}/{number}"), root=layout.root)
    encoder = Encoders(catalog).admit(name, source, options, _card(trainable, base_name, training))
    add_source(catalog, encoder.fingerprint, source_record(source, options))
    return encoder, number


def _options(trainable: Trainable, dimensions: int | None) -> Options:
    """The base's, with as many dimensions as were asked for. Raises InvalidArguments before anything is written."""
    text, image = trainable.passport.text, trainable.passport.image
    most = trainable.passport.dim
    if dimensions is not None and (text is None or image is not None):
        raise InvalidArguments(call="publish", problems=["dimensions= is for text models"])
    if dimensions is not None and not 1 <= dimensions <= most:
        raise InvalidArguments(call="publish", problems=[f"dimensions= is 1 to {most} for this model"])
    kept = dimensions or (text.dimensions if text else None)
    return trainable.options.model_copy(update={"dimensions": kept})


def _card(trainable: Trainable, base_name: str | None, training: Mapping[str, Any] | None) -> Card:
    card = read_card(trainable.source.folder, objective="contrastive")
    return card.model_copy(
        update={
            "base_model": base_name or trainable.source.model,
            "tuned_from": trainable.passport.fingerprint,
            "training": {"recipe": trainable.recipe.model_dump(mode="json"), **(training or {})},
        }
    )
