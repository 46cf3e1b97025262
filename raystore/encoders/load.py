"""From a source to a model in memory, whatever kind it is, and the check that it is the one that was registered."""

from __future__ import annotations

from raystore.catalog import Catalog
from raystore.encoders.model import Model, Options
from raystore.encoders.records import StoredEncoder, open_source
from raystore.encoders.source import Source
from raystore.errors import ModelUnusable, listed
from raystore.layout import Layout


def load_model(source: Source, options: Options) -> Model:
    """The model in float32 on the CPU and its passport. Cost: 3 to 6 s, most of it importing torch and transformers.

    Raises:
        ModelUnusable: it cannot be loaded, or is no model that raystore runs.
        InvalidArguments: an option that this model cannot take.
    """
    from raystore.encoders.text import load_text_model
    from raystore.encoders.vision import load_vision_model, vision_kind

    return load_text_model(source, options) if vision_kind(source) is None else load_vision_model(source, options)


def load_registered(layout: Layout, stored: StoredEncoder, label: str, name: str | None) -> Model:
    """The model from its source. Raises ModelUnusable if it is not the one that was registered."""
    source, options = open_source(Catalog(layout), stored.passport.fingerprint, label, name)
    model = load_model(source, options)
    found, expected = model.passport, stored.passport
    if found.weights != expected.weights:
        raise ModelUnusable(
            model=source.model,
            found=f"its weights changed since {label} was registered: digest {found.weights}, expected {expected.weights}",
            advice="Put the old weights back, or register what is there now under a name of its own.",
        )
    if found.fingerprint != expected.fingerprint:
        changed = ", ".join(found.differences(expected))
        raise ModelUnusable(
            model=source.model,
            found=f"it changed since {label} was registered ({changed}): fingerprint {found.fingerprint}, "
            f"expected {expected.fingerprint}",
            advice="Put the old files back, or register what is there now under a name of its own.",
        )
    return model


def refuse_random_weights(source: Source, model: Model) -> None:
    """Raise ModelUnusable where weights are missing from the files: transformers makes them up.

    Vision models are refused for that when they are loaded.
    """
    from raystore.encoders.text import missing_tensors

    if model.passport.image is not None:
        return
    if drawn := missing_tensors(source, model):
        raise ModelUnusable(
            model=source.model,
            found=f"{len(drawn)} of its {len(model.tensors)} tensors are missing from its files ({listed(drawn, 3)})",
            advice="Download or save the model again, whole.",
        )
