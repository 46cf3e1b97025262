"""The identity of an encoder: everything that changes what it puts out, and the digest of all that.

Costs nothing and touches no file. Knows no framework: whoever loads a model fills the fields in
(`text.py`), whoever runs it obeys them (`tokens.py`, the backends).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from raystore.layout import FP12

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

# Below this cosine to torch fp32 on a golden input, a backend is another encoder.
TOLERANCE = 0.9999


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


class Step(BaseModel):
    """A module that stands between the transformer and the normalisation, with what it was configured to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    config: dict[str, Any]


class Passport(BaseModel):
    """Everything that changes the output of a text encoder. Backend, device and file layout are not in it.

    Raises:
        ValidationError (pydantic, a ValueError): an unknown field, or a value that makes no sense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text"] = "text"
    scheme: Literal[1] = 1  # how the digests below are taken
    weights: Digest = Field(description="sha256 over the tensors by name, with dtype, shape and bytes, as float32")
    architecture: str = Field(description="the transformer's class")
    config: Digest = Field(description="digest of its configuration without the keys that change no output")
    layer: Literal["last"] = "last"
    steps: tuple[Step, ...] = Field(description="the modules after the transformer, in order")
    pooling: str
    normalize: Literal[True] = True  # vectors are unit rows: the metric is cosine
    prompts: dict[str, str] = Field(default_factory=dict, description="the model's own prompts that are not empty")
    prompt: str = Field(default="", description="put before every text")
    tokenizer: Digest = Field(description="digest of the fast tokenizer's JSON without truncation and padding")
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    max_length: int = Field(ge=1, description="tokens, special ones included; what is over is cut off")
    truncation_side: Literal["left", "right"] = "right"
    padding_side: Literal["left", "right"] = "right"
    pad_id: int = Field(default=0, ge=0)
    surrogates: Literal["replaced"] = "replaced"  # a lone surrogate is read as U+FFFD
    dim: int = Field(ge=1)
    metric: Literal["cosine"] = "cosine"
    equivalence: Literal["torch-fp32"] = "torch-fp32"
    tolerance: float = TOLERANCE

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits: sha256 of the canonical JSON of every field."""
        return digest_of(self.model_dump(mode="json"))

    def label(self, name: str) -> str:
        """'minilm@5f3c1a2b9d0e'."""
        return f"{name}@{self.fingerprint[:FP12]}"

    def differences(self, other: Passport) -> list[str]:
        """The fields in which two passports differ, in the order they are declared."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [field for field in mine if mine[field] != theirs[field]]
