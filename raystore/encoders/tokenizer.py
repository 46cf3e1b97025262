"""What a model's tokenizer must be: there, fast, and no larger than the model; and its one canonical text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystore.encoders.source import Source
from raystore.errors import ModelUnusable

FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model")


def check_files(source: Source, folders: Sequence[Path]) -> None:
    """Raise ModelUnusable where no folder holds a tokenizer: transformers then makes an empty one, to which every text
    of as many words is the same."""
    if not any((folder / name).is_file() for folder in folders for name in FILES):
        raise ModelUnusable(
            model=source.model,
            found=f"it has no tokenizer ({', '.join(FILES)})",
            advice="Add the tokenizer files that its authors published.",
        )


def check_tokenizer(source: Source, tokenizer: Any, embeddings: int) -> None:
    """Raise ModelUnusable where it is not fast, or has tokens the model has no embedding for, which fail when they occur."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelUnusable(
            model=source.model,
            found="it has no fast tokenizer (tokenizer.json)",
            advice="Convert it with AutoTokenizer.from_pretrained(path, use_fast=True).save_pretrained(path).",
        )
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= embeddings:
        raise ModelUnusable(
            model=source.model,
            found=f"its tokenizer does not fit: it has a token numbered {highest}, the model knows 0 to {embeddings - 1}",
            advice="Put the tokenizer files of this very model beside its weights.",
        )


def canonical_tokenizer(tokenizer_json: str) -> str:
    """The tokenizer's JSON without truncation and padding, which the passport states, keys sorted."""
    about = json.loads(tokenizer_json)
    about["truncation"] = about["padding"] = None
    return json.dumps(about, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
