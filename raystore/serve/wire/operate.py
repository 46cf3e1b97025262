"""Requests and answers of those who operate deployments, and of those who review. The examples are invented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from raystore.serve.review.labels import Disagreement
from raystore.serve.review.queue import ReviewItem
from raystore.serve.spec.base import HeadName
from raystore.serve.wire.common import EXAMPLE_REQUEST_ID, Id, Moment, with_example

Order = Literal["oldest", "least_confident"]
Labels = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$")]
LABELS = (
    "Where labels have arrived: 'table.column', of a table or collection that is served, or of a deployment's review table."
)
Reviewer = Annotated[str, StringConstraints(min_length=1, max_length=210)]

REVIEWER = Field(
    default=None,
    description="Who reviews, where no key is asked for; else it is the name of the key, or `token:` and that of the token's holder.",
)


class DeploymentFacts(BaseModel):
    """What answers under a name."""

    name: str
    number: int
    head: str
    encoder: str
    shadows: list[str]
    canary: str | None
    log: str | None
    review: str | None
    why: str | None = Field(description="Of a promotion or roll-back: what was done.")


class DeploymentList(BaseModel):
    deployments: list[DeploymentFacts]
    request_id: str


class PromoteRequest(BaseModel):
    model_config = with_example(
        {"head": "refunds@3", "if": "agreement > .97 and accuracy_gain.low > 0", "labels": "outcomes.outcome"}
    )

    head: HeadName
    gate: Annotated[str, StringConstraints(min_length=1, max_length=2000)] | None = Field(
        default=None, alias="if", description="A condition on the shadow's report; 409 where it does not hold."
    )
    labels: Labels | None = Field(default=None, description=LABELS)
    since: Moment | None = None


class RollbackRequest(BaseModel):
    model_config = with_example({"to": 3})

    to: int | None = Field(
        default=None, ge=1, description="The record to return to; by default the one with the head before."
    )


class PromotedAnswer(BaseModel):
    model_config = with_example(
        {
            "deployment": "triage",
            "number": 4,
            "before": "refunds@2",
            "after": "refunds@3",
            "why": "promoted refunds@3 over refunds@2",
            "alias": "refunds@live",
            "file_names": None,
            "verdict": None,
            "request_id": EXAMPLE_REQUEST_ID,
        }
    )

    deployment: str
    number: int
    before: str
    after: str
    why: str
    alias: str | None = Field(description="What means the new head from now on.")
    file_names: str | None = Field(description="What the deployment's file names, and would bring back.")
    verdict: dict[str, Any] | None
    request_id: str


class ShadowAnswer(BaseModel):
    """The reports' fields are those of `raystore shadow report --json`."""

    deployment: str
    reports: list[dict[str, Any]]
    request_id: str


class ReviewAnswer(BaseModel):
    items: list[ReviewItem]
    request_id: str


class ClaimRequest(BaseModel):
    model_config = with_example({"n": 10, "minutes": 15})

    reviewer: Reviewer | None = REVIEWER
    n: int = Field(default=10, ge=1, le=1000)
    minutes: float = Field(default=15, gt=0, le=1440)
    order: Order = "oldest"


class ReviewLabel(BaseModel):
    id: Id
    label: str | list[str] | float


class ReviewRequest(BaseModel):
    model_config = with_example({"labels": [{"id": EXAMPLE_REQUEST_ID, "label": "lost_card"}]})

    reviewer: Reviewer | None = REVIEWER
    labels: list[ReviewLabel] = Field(min_length=1, max_length=1000)
    allow_new: bool = Field(default=False, description="Take labels that the head does not know.")


class ReleaseRequest(BaseModel):
    model_config = with_example({})

    reviewer: Reviewer | None = REVIEWER


class ReleasedAnswer(BaseModel):
    released: int = Field(description="Items that others may have now.")
    request_id: str


class LabelledAnswer(BaseModel):
    model_config = with_example(
        {"added": 1, "known": 0, "version": 3, "disagreements": [], "request_id": EXAMPLE_REQUEST_ID}
    )

    added: int
    known: int
    version: int
    disagreements: list[Disagreement]
    request_id: str
