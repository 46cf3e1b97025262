"""What the parts of the deployment file share: strictness, and how a head, a count of replicas and a hook are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_HEAD = re.compile(r"[a-z][a-z0-9_-]{0,62}(@([1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,62}))?")


class Strict(BaseModel):
    """Unknown keys are mistakes, and nothing is changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_head(value: str) -> str:
    if not _HEAD.fullmatch(value):
        raise ValueError("expected a head as 'refunds', 'refunds@2' or 'refunds@live'")
    return value


HeadName = Annotated[str, AfterValidator(_is_head)]


def short_for(field: str, model: type[Strict]) -> BeforeValidator:
    """A string may stand for the whole mapping: `log: tickets` is `log: {collection: tickets}`."""

    def expand(value: Any) -> Any:
        if isinstance(value, str):
            return {field: value}
        if not isinstance(value, (Mapping, BaseModel)):
            raise ValueError(f"expected a text, or a mapping with {field}")
        return value

    return BeforeValidator(expand, json_schema_input_type=str | model)


class Scaling(Strict):
    """How many replicas: `replicas: 2`, or between two numbers by how many requests each has under way."""

    least: int = Field(default=1, ge=1, le=256, alias="min", description="Replicas that are there whatever comes.")
    most: int = Field(default=1, ge=1, le=256, alias="max", description="Replicas that are there at most.")
    ongoing: float = Field(
        default=8, gt=0, le=1000, description="One more where a replica has more requests under way, one less where fewer."
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def fixed(self) -> bool:
        return self.least == self.most


def _one_number(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"min": value, "max": value}
    if not isinstance(value, (Mapping, Scaling)):
        raise ValueError("expected a whole number, or min and max")
    return value


def _in_order(value: Scaling) -> Scaling:
    if value.least > value.most:
        raise ValueError(f"min is {value.least}, which is more than max, {value.most}")
    return value


Replicas = Annotated[Scaling, BeforeValidator(_one_number, json_schema_input_type=int | Scaling), AfterValidator(_in_order)]


class Placed(Strict):
    """Where something runs that is a Serve deployment of its own."""

    replicas: Replicas = Scaling()
    gpu: float = Field(default=0, ge=0, le=64, description="GPUs of each replica; a fraction shares one.")
    cpus: float = Field(default=1, gt=0, le=1024, description="Cores that Ray reserves for each replica; also its threads.")
