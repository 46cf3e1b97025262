"""Requests and answers in the shapes OpenAI's clients know: embeddings and models. The examples are invented.

Pure models. Answers carry a few fields more than OpenAI's, which its clients keep and do not mind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, field_validator

from raystore.data.rows import is_unicode
from raystore.encoders.passport import Modality
from raystore.serve.wire.common import (
    CONTENT,
    EXAMPLE_FINGERPRINT,
    EXAMPLE_REQUEST_ID,
    MOST_ITEMS,
    Fingerprint,
    with_example,
)


class EmbeddingsRequest(BaseModel):
    """OpenAI's shape. `model` is an encoder's name, its label (`minilm@5f3c1a2b9d0e`) or its fingerprint."""

    model_config = with_example({"model": "minilm", "input": ["card never arrived", "top up failed"]})

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    input: str | Annotated[list[str], Field(min_length=1, max_length=MOST_ITEMS)] = Field(description=CONTENT)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, description="Accepted where it is the encoder's own dimension.")
    user: str | None = Field(default=None, description="Accepted and ignored.")

    @field_validator("input", mode="before")
    @classmethod
    def _is_strings(cls, value: object) -> object:
        """One sentence for what does not fit: pydantic would say it once for the string and once for each list."""
        if isinstance(value, str) and is_unicode(value):
            return value
        if not isinstance(value, list):
            raise ValueError("expected a string of valid Unicode or a list of such")
        if not value:
            raise ValueError("the list is empty")
        if len(value) > MOST_ITEMS:
            raise ValueError(f"expected at most {MOST_ITEMS:,} strings")
        if all(isinstance(item, (int, list)) and not isinstance(item, bool) for item in value):
            raise ValueError("token numbers mean nothing without the tokenizer that made them: send the texts themselves")
        wrong = [str(i) for i, item in enumerate(value) if not isinstance(item, str) or not is_unicode(item)]
        if wrong:
            places = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
            raise ValueError(f"expected a string of valid Unicode or a list of such, and other things stand at {places}")
        return value

    @property
    def contents(self) -> dict[str, str]:
        if isinstance(self.input, str):
            return {"body.input": self.input}
        return {f"body.input[{i}]": item for i, item in enumerate(self.input)}


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens read of the texts; an image has none.")
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    model_config = with_example(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
            "model": "minilm@5f3c1a2b9d0e",
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
            "fingerprint": EXAMPLE_FINGERPRINT,
            "request_id": EXAMPLE_REQUEST_ID,
        }
    )

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    fingerprint: Fingerprint
    request_id: str


class ModelCard(BaseModel):
    """An encoder, in OpenAI's shape of a model; `id` is its name in the store."""

    model_config = with_example(
        {
            "id": "minilm",
            "object": "model",
            "created": 1_763_640_000,
            "owned_by": "raystore",
            "fingerprint": EXAMPLE_FINGERPRINT,
            "modalities": ["text"],
            "dimensions": 384,
        }
    )

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the name came to mean this encoder, in seconds since 1970.")
    owned_by: str = "raystore"
    fingerprint: Fingerprint
    modalities: list[Modality] = Field(description="What it takes.")
    dimensions: int


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
