"""One deployment of the file: live head, shadows, canary, log, rules, review. A string may stand for a mapping with one field."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystore.serve.spec.base import HeadName, Placed, Strict, short_for
from raystore.serve.spec.rules import RulesSpec

MOST_SHADOWS = 16


class HeadSpec(Placed):
    """`refunds@2`, or with `own: true` a Serve deployment of its own, for heads that are slow or want a GPU."""

    name: HeadName = Field(description="'refunds' (its newest), 'refunds@2' or 'refunds@live'.")
    own: bool = Field(default=False, description="Whether it is a Serve deployment of its own.")


class ShadowSpec(Strict):
    """A head that sees what the live head sees, after the answer. Of another encoder, the content is encoded once more."""

    head: HeadName = Field(description="As the live one.")
    sample: float = Field(default=1.0, gt=0, le=1, description="Share of the requests it sees, by request id.")


class CanarySpec(Strict):
    """A head that answers a part of the requests in place of the live one."""

    head: HeadName = Field(description="As the live one.")
    percent: float = Field(gt=0, le=100, description="Of subjects, or of items.")
    by: Literal["subject", "request"] = Field(
        default="subject", description="request: by the item's id, as goes whoever has no subject."
    )


class LogSpec(Strict):
    """The collection that keeps the embedding of what is predicted, and its content only where it was made to (`keep_source`)."""

    collection: str = Field(description="Of the live head's encoder.")
    required: bool = Field(default=True, description="True: the row is durable before the answer. False: behind a queue.")
    sample: float = Field(default=1.0, gt=0, le=1, description="Share of the items that is logged, by the item's id.")
    queue: int = Field(default=1000, ge=1, le=100_000, description="Rows that may wait, where it is not required.")


class ReviewSpec(Strict):
    """Requests that people look at: ids, scores and kept columns. Their labels land in a source table."""

    table: str = Field(description="The source table that takes the labels; made with the first.")
    abstained: bool = Field(default=True, description="Whether abstained answers are asked for.")
    sample: float = Field(default=0.0, ge=0, le=1, description="Share of all other items, by the item's id.")
    most: int = Field(default=10_000, ge=1, le=1_000_000, description="Open items; beyond that none is added.")


class DeploymentSpec(Strict):
    """One route of the file.

    An alias is looked up when the deployment is recorded; what answers is that version until it is deployed again or promoted.
    """

    head: Annotated[HeadSpec, short_for("name", HeadSpec)]
    through: str | None = Field(
        default=None, description="A bridge, by which a newer encoder reads the items and the head is asked all the same."
    )
    log: Annotated[LogSpec, short_for("collection", LogSpec)] | None = None
    shadow: list[Annotated[ShadowSpec, short_for("head", ShadowSpec)]] = Field(
        default_factory=list, max_length=MOST_SHADOWS
    )
    canary: CanarySpec | None = None
    rules: RulesSpec = RulesSpec()
    review: Annotated[ReviewSpec, short_for("table", ReviewSpec)] | None = None
    keep: list[str] = Field(
        default_factory=list,
        max_length=100,
        description="Columns of a request kept beside its prediction, for reports and review.",
    )

    @model_validator(mode="after")
    def _heads_differ(self) -> DeploymentSpec:
        heads = [self.head.name, *(each.head for each in self.shadow), *([self.canary.head] if self.canary else [])]
        twice = sorted({head for head in heads if heads.count(head) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands twice among head, shadow and canary")
        return self
