"""The packaged MiniLM, loaded once a run, for tests on real texts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from raystore.vectors import Vectors


@lru_cache(maxsize=1)
def minilm() -> Any:
    from raystore.encoders.model import Options
    from raystore.encoders.opening import from_model
    from raystore.encoders.source import find_source
    from raystore.encoders.text import load_text_model

    return from_model(load_text_model(find_source("minilm"), Options()), "minilm")


def encode(texts: list[str]) -> Vectors:
    """In the order of their lengths, so that short texts are not padded to long ones."""
    order = np.argsort([len(text) for text in texts])
    found = minilm().encode([texts[i] for i in order])
    return found[np.argsort(order)]
