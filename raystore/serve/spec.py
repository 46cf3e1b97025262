"""What is to be served: the deployment file, and the record a deployment leaves in the catalog.

Pure models and files. Loads no encoder, knows no HTTP and no Ray; heads are met as their name, number and lineage.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raystore.catalog import Catalog
from raystore.encoders.bridged import Bridge
from raystore.encoders.images import LIMITS
from raystore.errors import InvalidArguments, PassportMismatch
from raystore.layout import check_name, names
from raystore.train.classify.voters import Voters

_HEAD = re.compile(r"[a-z][a-z0-9_-]{0,62}(@([1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,62}))?")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """What one request may hold; looked at before anything is parsed or encoded."""

    # One image of 10 MB is 13.4 MB in base64. What is over 64 MiB could get into Ray's object store (session.py).
    max_body_bytes: int = Field(default=2**24, ge=1024, le=2**25)
    max_items: int = Field(default=256, ge=1, le=4096)
    max_chars: int = Field(default=100_000, ge=1, le=10_000_000)
    # Of one image: bytes of the file, pixels and frames by its header. None may be beyond what encoders read at all.
    max_image_bytes: int = Field(default=10_000_000, ge=1, le=LIMITS.max_bytes)
    max_image_pixels: int = Field(default=50_000_000, ge=1, le=LIMITS.max_pixels)
    max_image_frames: int = Field(default=1_000, ge=1, le=LIMITS.max_frames)


class SqlSpec(_Strict):
    """What one query of POST /v1/sql may use, and how many run at once in a replica."""

    timeout_s: float = Field(default=10.0, gt=0, le=600)
    memory_mb: int = Field(default=1024, ge=128, le=2**20)
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    max_bytes: int = Field(default=2**24, ge=1024, le=2**28)
    at_once: int = Field(default=2, ge=1, le=8)  # each waits in one of the application's 16 threads


class DeploymentSpec(_Strict):
    """One route of the file: the live head, and the collection that keeps an embedding of every prediction.

    An alias is looked up when the deployment is recorded; what answers is that version until it is deployed again.
    """

    head: str
    log: str | None = None
    through: str | None = None  # a bridge, by which a newer encoder reads the items and the head is asked all the same

    @field_validator("head")
    @classmethod
    def _is_head(cls, value: str) -> str:
        if not _HEAD.fullmatch(value):
            raise ValueError("expected a head as 'refunds', 'refunds@2' or 'refunds@live'")
        return value


class AppSpec(_Strict):
    """The file `raystore serve app.yaml` reads. Every field but the deployments has a default."""

    store: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    limits: Limits = Limits()
    replicas: int = Field(default=1, ge=1, le=256)
    deployments: dict[str, DeploymentSpec] = Field(default_factory=dict)
    collections: Literal["all"] | list[str] = "all"
    # Source tables that SQL may read. They hold what somebody joined for themselves, so none is served unless named.
    tables: Literal["all"] | list[str] = Field(default_factory=list)
    sql: SqlSpec = SqlSpec()

    @field_validator("deployments")
    @classmethod
    def _are_named(cls, value: dict[str, DeploymentSpec]) -> dict[str, DeploymentSpec]:
        for name in value:
            check_name("a deployment", name, dashes=True)  # InvalidName is a ValueError: pydantic reports it with the rest
        return value

    def serves(self, collection: str) -> bool:
        return self.collections == "all" or collection in self.collections

    def serves_table(self, table: str) -> bool:
        return self.tables == "all" or table in self.tables


class SnapshotRef(_Strict):
    name: str
    number: int
    hash: str


class VotersRef(_Strict):
    """Whose votes a head of kind "neighbours" counts: the collection, and the place of its labels, if there is one."""

    collection: str
    labels: str | None


class ThroughRef(_Strict):
    """The bridge by which a head is asked that knows an older encoder, and how well it does, on pairs held out."""

    encoder: str  # 'minilm-back@..'
    fingerprint: str
    fidelity: dict[str, str | int | float | None]


class DeploymentRecord(_Strict):
    """What answers under a deployment's name: published as deployments/<name>/<number>.json, never edited."""

    name: str
    number: int
    head: str  # 'refunds@2'
    fingerprint: str
    encoder: str  # 'minilm@5f3c1a2b9d0e'
    snapshot: SnapshotRef | None  # None of a head that asks labelled rows instead, which `voters` names
    voters: VotersRef | None = None
    log: str | None = None
    through: ThroughRef | None = None

    @property
    def reads(self) -> str:
        """The fingerprint of the encoder that reads what is sent: the head's own, or the bridge."""
        return self.through.fingerprint if self.through else self.fingerprint


class HeadLike(Protocol):
    """What a deployment records of its head."""

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def snapshot(self) -> Mapping[str, Any]: ...
    @property
    def voters(self) -> Voters | None: ...


def load_spec(path: str | Path) -> AppSpec:
    """The deployment file at `path`.

    Raises:
        InvalidArguments: it cannot be read, is no YAML, or holds mistakes; all of them are named at once, an
            unknown key with the nearest known one.
    """
    call = f"serve '{path}'"
    try:
        value = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArguments(call=call, problems=[f"the file cannot be read ({error.strerror})"]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidArguments(call=call, problems=[f"line {line} is no YAML: {error.problem}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InvalidArguments(call=call, problems=["the file is no YAML in UTF-8"]) from None
    if value is None:
        raise InvalidArguments(call=call, problems=["the file is empty, expected deployments: and what else it should set"])
    return parse_spec(value, call)


def parse_spec(value: object, call: str) -> AppSpec:
    """The spec in a mapping that YAML or Python made; InvalidArguments names everything that is wrong in it."""
    if not isinstance(value, Mapping):
        raise InvalidArguments(call=call, problems=["expected keys and values (deployments:, port:, ...)"])
    try:
        return AppSpec.model_validate(value)
    except ValidationError as error:
        problems = [_problem(e["type"], e["loc"], e["msg"]) for e in error.errors(include_input=False, include_url=False)]
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems))) from None


def _problem(kind: str, where: tuple[int | str, ...], message: str) -> str:
    if kind == "extra_forbidden":
        known = _fields_at(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        return f"{_path(where[:-1], 'the file')} has the unknown key '{where[-1]}': {hint}"
    if where and where[0] in ("collections", "tables"):
        return f"{where[0]}: expected 'all' or a list of names"
    reason = message.removeprefix("Value error, ").removesuffix(".")
    return f"{_path(where)}: {reason[:1].lower()}{reason[1:]}"


def _path(where: tuple[int | str, ...], top: str = "") -> str:
    return ".".join(str(part) for part in where) or top


def _fields_at(where: tuple[int | str, ...]) -> list[str]:
    """The known keys of the model that stands at a path of the file."""
    model: type[BaseModel] = AppSpec
    for part in where:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # a name the user chose: the key of a deployment
        inner = [
            a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        model = inner[0] if inner else model
    return list(model.model_fields)


def record_deployment(
    catalog: Catalog,
    name: str,
    head: HeadLike,
    *,
    encoder: tuple[str, str] | None = None,
    log: tuple[str, list[str]] | None = None,
    through: Bridge | None = None,
) -> DeploymentRecord:
    """The published record of a deployment; the same again publishes nothing and returns the present one.

    Args:
        catalog: where the record is put.
        name: of the deployment and its route.
        head: the live head, loaded.
        encoder: label and fingerprint of the encoder the caller asked for, if any.
        log: the collection that keeps an embedding of each prediction, and the fingerprints it holds.
        through: the bridge that leads to the head's encoder.

    Raises:
        InvalidName: the name may not stand in a path.
        PassportMismatch: the head, the encoder asked for and the log's collection are not of one encoder.
    """
    check_name("a deployment", name, dashes=True)
    ref = f"{head.name}@{head.number}"
    if encoder is not None and encoder[1] != head.fingerprint:
        raise PassportMismatch(
            asker=f"head '{ref}'",
            expected=f"{head.encoder} ({head.fingerprint})",
            found=f"{encoder[0]} ({encoder[1]})",
            advice=f"Train a head on {encoder[0]}, or deploy with encoder='{head.encoder.split('@')[0]}'.",
        )
    if through is not None and through.target != head.fingerprint:
        raise PassportMismatch(
            asker=f"head '{ref}'",
            expected=f"{head.encoder} ({head.fingerprint})",
            found=f"through='{through.label.partition('@')[0]}', a bridge that leads to {through.target}",
            advice="Name the bridge that leads to the head's encoder.",
        )
    kept = {head.fingerprint} if through is None else {head.fingerprint, through.source}
    if log is not None and not kept & set(log[1]):
        raise PassportMismatch(
            asker=f"the log of deployment '{name}', which holds what head '{ref}' encodes,",
            expected=f"{head.encoder} ({head.fingerprint})",
            found=f"collection '{log[0]}' of {' and '.join(log[1]) or 'no encoder'}",
            advice="Log to a collection of the head's encoder.",
        )
    folder = catalog.layout.deployment(name)
    voters = head.voters
    record = DeploymentRecord(
        name=name,
        number=0,
        head=ref,
        fingerprint=head.fingerprint,
        encoder=head.encoder,
        snapshot=None if voters else SnapshotRef(**{k: head.snapshot[k] for k in ("name", "number", "hash")}),
        voters=VotersRef(collection=voters.collection, labels=voters.labels) if voters else None,
        log=log[0] if log else None,
        through=None if through is None else ThroughRef(fingerprint=through.fingerprint, **through.said),
    )
    present = catalog.latest(folder)
    if present is not None:
        known = _read(present[1], present[0])
        if known.model_copy(update={"number": 0}) == record:
            return known
    number = catalog.put(folder, record.model_dump(exclude={"number"}))
    return record.model_copy(update={"number": number})


def deployment_records(catalog: Catalog) -> dict[str, DeploymentRecord]:
    """The present record of every deployment of the store, by name."""
    found = {name: catalog.latest(catalog.layout.deployment(name)) for name in names(catalog.layout.deployments)}
    return {name: _read(latest[1], latest[0]) for name, latest in found.items() if latest is not None}


def _read(record: Mapping[str, Any], number: int) -> DeploymentRecord:
    return DeploymentRecord.model_validate({**{k: v for k, v in record.items() if k != "published_at"}, "number": number})
