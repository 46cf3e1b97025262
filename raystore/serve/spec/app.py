"""The deployment file `raystore serve app.yaml` reads. Every field but the deployments has a default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raystore.encoders.images import LIMITS
from raystore.layout import check_name
from raystore.serve.spec.base import Placed, Replicas, Scaling, Strict
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.door import Oidc, Rates, Tls
from raystore.serve.spec.watch import Watch


class Limits(Strict):
    """What one request may hold, looked at before anything is parsed or encoded; and how many a replica takes, over HTTP and gRPC
    together."""

    # One image of 10 MB is 13.4 MB in base64. What is over 64 MiB could get into Ray's object store (session.py).
    max_body_bytes: int = Field(default=2**24, ge=1024, le=2**25, description="Of one request; of a line of a stream too.")
    max_items: int = Field(default=256, ge=1, le=4096, description="Texts, images or vectors of one request.")
    max_chars: int = Field(default=100_000, ge=1, le=10_000_000, description="Of one text.")
    # None may be beyond what encoders read at all.
    max_image_bytes: int = Field(default=10_000_000, ge=1, le=LIMITS.max_bytes, description="Of one image's file.")
    max_image_pixels: int = Field(default=50_000_000, ge=1, le=LIMITS.max_pixels, description="By the image's header.")
    max_image_frames: int = Field(default=1_000, ge=1, le=LIMITS.max_frames, description="By the image's header.")
    max_requests: int = Field(
        default=128,
        ge=1,
        le=10_000,
        description="Of a replica, from their first byte to their answer's last, streams among them; beyond it 503 at once.",
    )
    # With max_streams fewer than requests, so that some places are always for those that come whole.
    max_sending: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="Of those, whose bodies are still coming; beyond it the one that takes longest is answered 503.",
    )
    max_streams: int = Field(default=32, ge=1, le=10_000, description="Of those, open streams; beyond it 503.")
    stream_idle_s: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="How long a stream may send no line, or take none of its answers, before it is ended.",
    )
    deadline_s: float = Field(
        default=30,
        gt=0,
        le=600,
        description="After which a request is answered 504, the reading of its body included; x-raystore-deadline-ms asks for less.",
    )


class SqlSpec(Strict):
    """What one query of POST /v1/sql may use, and how many run at once in a replica."""

    timeout_s: float = Field(default=10.0, gt=0, le=600, description="Of a query; 422 beyond it.")
    memory_mb: int = Field(default=1024, ge=128, le=2**20, description="Of a query, beside the libraries; 422 beyond it.")
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000, description="Of an answer, which is cut there and says so.")
    max_bytes: int = Field(default=2**24, ge=1024, le=2**28, description="Of an answer, which is cut there and says so.")
    # Each waits in one of the application's 16 threads.
    at_once: int = Field(default=2, ge=1, le=8, description="Queries at once in a replica; 503 beyond it.")


class Batch(Strict):
    """What an encoder takes at once. Nobody waits while the encoder is idle."""

    max_tokens: int = Field(default=16_384, ge=64, le=2**22, description="Of a batch, padding included.")
    max_items: int = Field(default=256, ge=1, le=4096, description="Of a batch.")
    wait_ms: float = Field(
        default=3.0, ge=0, le=1000, description="The longest a batch waits for more, while requests come densely."
    )


class EncoderSpec(Placed):
    """An encoder that is a Serve deployment of its own. Content travels to it sealed (AES-GCM)."""

    batch: Batch | None = Field(default=None, description="In place of the file's own.")


class Recording(Strict):
    """The process that runs shadows and keeps predictions: beside the replicas, so that it cannot slow them."""

    memory_mb: int = Field(
        default=4096,
        ge=512,
        le=2**20,
        description="Beyond it allocations fail there, and what asked for them is dropped and counted.",
    )
    cpus: float | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="Cores that all shadows and rules in shadow may keep busy; an eighth of the machine's by default.",
    )
    queue: int = Field(
        default=1000,
        ge=10,
        le=100_000,
        description="Predictions of a replica that may wait for it; beyond, dropped and counted.",
    )


class Grpc(Strict):
    """Predict and log over gRPC, on a port of its own."""

    port: int = Field(default=9000, ge=1, le=65535, description="At the file's host.")


class AppSpec(Strict):
    """The whole file."""

    store: str | None = Field(default=None, description="The store's folder; by default the command line's.")
    host: str = Field(default="127.0.0.1", description="Beyond loopback the store has to have a key, or the file oidc.")
    port: int = Field(default=8000, ge=1, le=65535, description="For HTTP.")
    limits: Limits = Limits()
    replicas: Replicas = Scaling()
    batch: Batch = Batch()
    colocate: bool | None = Field(
        default=None,
        description="Whether encoders stand inside the replicas, by default where the cluster is one node; those of `encoders` never.",
    )
    encoders: dict[str, EncoderSpec] = Field(default_factory=dict)
    deployments: dict[str, DeploymentSpec] = Field(default_factory=dict)
    collections: Literal["all"] | list[str] = Field(
        default="all", description="What log, search and SQL may name; kept predictions (predictions_...) only by name."
    )
    models: Literal["all"] | list[str] = Field(
        default="all",
        description="Encoders that embeddings, models and searches may name. Each that was asked for stays in every replica's memory.",
    )
    # They hold what somebody joined for themselves, so none is served unless named.
    tables: Literal["all"] | list[str] = Field(default_factory=list, description="Source tables that SQL may read.")
    sql: SqlSpec = SqlSpec()
    recording: Recording = Recording()
    watch: Watch = Watch()
    grpc: Grpc | None = None
    tls: Tls | None = None
    oidc: Oidc | None = None
    rates: Rates = Rates()

    @field_validator("deployments")
    @classmethod
    def _are_named(cls, value: dict[str, DeploymentSpec]) -> dict[str, DeploymentSpec]:
        for name in value:
            check_name("a deployment", name, dashes=True)  # InvalidName is a ValueError: pydantic reports it with the rest
        return value

    def serves(self, collection: str) -> bool:
        """Kept predictions are served where they are named; "all" are the collections of embeddings."""
        if self.collections == "all":
            return not collection.startswith("predictions_")
        return collection in self.collections

    def serves_table(self, table: str) -> bool:
        return self.tables == "all" or table in self.tables
