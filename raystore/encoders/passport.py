"""The identity of an encoder: everything that changes what it puts out, and the digest of all that.

Costs nothing and touches no file. Knows no framework: whoever loads a model fills the fields in (`text.py`,
`vision.py`), whoever runs it obeys them (`tokens.py`, `pixels.py`, the backends).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from raystore.layout import FP12

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Modality = Literal["text", "image"]
Kernel = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Equivalence = Literal["torch-fp32", "torch-bf16", "torch-fp16", "openvino-int8"]

# The lowest cosine to the golden vectors at which an encoder is still itself. A backend that stays within 0.9999 of
# torch fp32 shares its class; the others lose more when the processor changes, and are compared with themselves only.
TOLERANCES: dict[Equivalence, float] = {
    "torch-fp32": 0.9999,
    "torch-bf16": 0.999,
    "torch-fp16": 0.9999,
    "openvino-int8": 0.99,
}
TOLERANCE = TOLERANCES["torch-fp32"]


def canonical_json(value: object) -> str:
    """One text per value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(_Part):
    """A module that stands between the transformer and the normalisation, with what it was configured to do."""

    type: str
    config: dict[str, Any]


class TextPart(_Part):
    """How a text becomes the model's input, and the model's output one vector."""

    layer: Literal["last"] = "last"
    steps: tuple[Step, ...] = Field(default=(), description="the modules after the transformer, in order")
    pooling: str
    prompts: dict[str, str] = Field(default_factory=dict, description="the model's own prompts that are not empty")
    prompt: str = Field(default="", description="put before every text")
    tokenizer: Digest = Field(description="digest of the fast tokenizer's JSON without truncation and padding")
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    max_length: int = Field(ge=1, description="tokens, special ones included; what is over is cut off")
    truncation_side: Literal["left", "right"] = "right"
    padding_side: Literal["left", "right"] = "right"
    pad_id: int = Field(default=0, ge=0)
    dimensions: int | None = Field(default=None, ge=1, description="the first ones kept, before normalising; None is all")
    surrogates: Literal["replaced"] = "replaced"  # a lone surrogate is read as U+FFFD


class ImagePart(_Part):
    """How an image file becomes the model's input, and the model's output one vector."""

    layer: Literal["last"] = "last"
    pooling: Literal["cls", "mean", "pooler", "projection"]
    decoder: Literal["pillow"] = "pillow"
    decoder_class: Literal["7+"] = "7+"  # Pillow's resampling puts out the same bytes since 7.0
    frame: Literal["first"] = "first"  # of an animation or a file of several pages
    orientation: Literal["exif"] = "exif"  # turned as the file says before anything else
    colour: Literal["rgb"] = "rgb"  # grey is repeated, palette and CMYK are converted, 16 bits are scaled to 8
    alpha: Literal["dropped"] = "dropped"  # as transformers' convert("RGB") does, not laid on a background
    resize: Literal["exact", "shortest", "none"] = Field(description="to `size`, or the shorter edge to size[0]")
    size: tuple[int, int] = Field(description="height, width in pixels")
    kernel: Kernel
    antialias: Literal[True] = True  # Pillow widens its kernel when it shrinks; `nearest` has none
    crop: tuple[int, int] | None = Field(default=None, description="height, width cut from the middle")
    rescale: float = Field(description="each value of 0 to 255 is multiplied with it")
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    input: str = "pixel_values"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the model sees."""
        return self.crop or self.size


class Card(_Part):
    """What is known of an encoder beside what it puts out; outside the fingerprint."""

    licence: str | None = None
    trained_on: tuple[str, ...] = ()
    objective: Literal["supervised", "contrastive", "self-supervised"] | None = None
    base_model: str | None = Field(default=None, description="what its authors trained it from")
    derived_from: Digest | None = Field(default=None, description="the encoder this is another precision of")
    tuned_from: Digest | None = Field(default=None, description="the encoder this was fine-tuned from, in this store")
    training: dict[str, Any] = Field(default_factory=dict, description="how: recipe, digest of the data, augmentations")
    bridge: dict[str, Any] | None = Field(
        default=None, description="of a bridge between two encoders: from, to, direction .."
    )
    libraries: dict[str, str] = Field(default_factory=dict, description="versions at registration")


class Passport(_Part):
    """Everything that changes an encoder's output. Backend, device and file layout are not in it.

    A model that takes texts and images (CLIP) has both parts and puts both into one space.

    Raises:
        ValidationError (pydantic, a ValueError): an unknown field, or a value that makes no sense.
    """

    scheme: Literal[2] = 2  # how the digests below are taken
    weights: Digest = Field(description="sha256 over the tensors by name, with dtype, shape and bytes, as float32")
    architecture: str = Field(description="the model's class")
    config: Digest = Field(description="digest of its configuration without the keys that change no output")
    text: TextPart | None = None
    image: ImagePart | None = None
    normalize: Literal[True] = True  # vectors are unit rows: the metric is cosine
    dim: int = Field(ge=1)
    metric: Literal["cosine"] = "cosine"
    dtype: Literal["float32"] = "float32"  # of the vectors
    equivalence: Equivalence = Field(default="torch-fp32", description="whose arithmetic the output is that of")
    tolerance: float = TOLERANCE

    @model_validator(mode="after")
    def _takes_something(self) -> Passport:
        if self.text is None and self.image is None:
            raise ValueError("an encoder takes texts, images or both")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits: sha256 of the canonical JSON of every field."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(m for m in ("text", "image") if getattr(self, m) is not None)

    def label(self, name: str) -> str:
        """'minilm@5f3c1a2b9d0e'."""
        return f"{name}@{self.fingerprint[:FP12]}"

    def flat(self) -> dict[str, Any]:
        """Every field by its dotted name, in the order they are declared: {'weights': .., 'text.max_length': ..}."""
        found: dict[str, Any] = {}
        for name, value in self.model_dump().items():
            if isinstance(value, dict) and name in ("text", "image"):
                found |= {f"{name}.{inner}": each for inner, each in value.items()}
            else:
                found[name] = value
        return found

    def differences(self, other: Passport) -> list[str]:
        """The dotted names of the fields in which two passports differ, in the order they are declared."""
        mine, theirs = self.flat(), other.flat()
        return [field for field in dict.fromkeys([*mine, *theirs]) if mine.get(field) != theirs.get(field)]
