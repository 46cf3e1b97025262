"""The record a deployment leaves in the catalog: what answers under its name, with every alias looked up.

Files alone. Loads no encoder, knows no HTTP and no Ray; heads are met as their name, number and lineage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from raystore.catalog import Catalog
from raystore.encoders.bridged import Bridge
from raystore.errors import PassportMismatch
from raystore.layout import check_name, names
from raystore.serve.spec.alias import settle
from raystore.serve.spec.base import Placed, Strict
from raystore.serve.spec.deployment import DeploymentSpec, LogSpec, ReviewSpec
from raystore.serve.spec.rules import RulesSpec
from raystore.serve.spec.watch import Watch
from raystore.train.classify.voters import Voters
from raystore.train.source import Task


class SnapshotRef(Strict):
    name: str
    number: int
    hash: str


class VotersRef(Strict):
    """Whose votes a head of kind "neighbours" counts: the collection, and the place of its labels, if there is one."""

    collection: str
    labels: str | None


class ThroughRef(Strict):
    """The bridge by which a head is asked that knows an older encoder, and how well it does, on pairs held out."""

    encoder: str  # 'minilm-back@..'
    fingerprint: str
    fidelity: dict[str, str | int | float | None]


class HeadRef(Strict):
    """A head, and where it comes from."""

    head: str  # 'refunds@2'
    fingerprint: str
    encoder: str  # 'minilm@5f3c1a2b9d0e'
    snapshot: SnapshotRef | None  # None of a head that asks labelled rows instead, which `voters` names
    voters: VotersRef | None = None


class ShadowRef(HeadRef):
    sample: float


class CanaryRef(HeadRef):
    percent: float
    by: Literal["subject", "request"]


class DeploymentRecord(HeadRef):
    """What answers under a deployment's name: published as deployments/<name>/<number>.json, never edited.

    The fields of HeadRef are the live head's.
    """

    name: str
    number: int
    asked: str  # how the live head was named: 'refunds@live'
    own: Placed | None = None  # where the live head runs that is a Serve deployment of its own
    log: LogSpec | None = None
    through: ThroughRef | None = None
    shadow: tuple[ShadowRef, ...] = ()
    canary: CanaryRef | None = None
    rules: RulesSpec = RulesSpec()
    review: ReviewSpec | None = None
    keep: tuple[str, ...] = ()
    why: str | None = None  # of a promotion or a roll-back: what was done
    alias_record: int | None = None  # and by which record of it the alias in `asked` comes to mean this head (alias.py)

    @property
    def reads(self) -> str:
        """The fingerprint of the encoder that reads what is sent: the head's own, or the bridge."""
        return self.through.fingerprint if self.through else self.fingerprint

    @property
    def keeps_predictions(self) -> bool:
        """Whether what it says is written down: where somebody looks at it later."""
        return bool(self.shadow or self.canary or self.review or self.keep or self.rules.shadow)

    def is_told(self, watch: Watch) -> bool:
        """Whether the recording process is told of its requests: to keep what was said, or to look for drift from its snapshot."""
        return self.keeps_predictions or (watch.drift == "all" and self.snapshot is not None)

    @property
    def heads(self) -> tuple[HeadRef, ...]:
        """Every head it asks: the live one, the canary, the shadows."""
        return (self, *((self.canary,) if self.canary else ()), *self.shadow)


class HeadLike(Protocol):
    """What a deployment records of its head."""

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def task(self) -> Task: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def snapshot(self) -> Mapping[str, Any]: ...
    @property
    def voters(self) -> Voters | None: ...


def record_deployment(
    catalog: Catalog,
    name: str,
    spec: DeploymentSpec,
    *,
    open_head: Callable[[str], HeadLike],
    held: Callable[[str], list[str]],
    encoder: tuple[str, str] | None = None,
    through: Bridge | None = None,
) -> DeploymentRecord:
    """The published record of a deployment; the same again publishes nothing and returns the present one.

    Where somebody else publishes another meanwhile, aliases are looked up again: a promotion may have moved one.

    Args:
        catalog: where the record is put.
        name: of the deployment and its route.
        spec: what it is to be.
        open_head: a head by its name, number or alias.
        held: the fingerprints of a collection.
        encoder: label and fingerprint of the encoder the caller asked for, if any.
        through: the bridge that leads to the head's encoder.

    Raises:
        InvalidName: the name may not stand in a path.
        PassportMismatch: the head, the encoder asked for, the log's collection and the canary are not of one encoder.
        HeadNotFound, CollectionNotFound: the spec names what is not there.
    """
    check_name("a deployment", name, dashes=True)
    while True:  # of those who are too late one at least was in time, so this ends
        settle(catalog, name)
        present = catalog.latest(catalog.layout.deployment(name))
        record = resolve_deployment(name, spec, open_head=open_head, held=held, encoder=encoder, through=through)
        if present is not None:
            known = _read(present[1], present[0])
            if known.model_copy(update={"number": 0, "why": None, "alias_record": None}) == record:
                return known
        published = publish_record(catalog, record, over=present[0] if present is not None else 0)
        if published is not None:
            return published


def publish_record(catalog: Catalog, record: DeploymentRecord, *, over: int) -> DeploymentRecord | None:
    """The record, published as the one after number `over`; None where somebody else published that one meanwhile."""
    content = record.model_dump(mode="json", by_alias=True, exclude={"number"})
    try:
        number = catalog.put(catalog.layout.deployment(record.name), content, only=over + 1)
    except FileExistsError:
        return None
    return record.model_copy(update={"number": number})


def resolve_deployment(
    name: str,
    spec: DeploymentSpec,
    *,
    open_head: Callable[[str], HeadLike],
    held: Callable[[str], list[str]],
    encoder: tuple[str, str] | None = None,
    through: Bridge | None = None,
) -> DeploymentRecord:
    """The record as it would be published, with number 0. Raises as `record_deployment`."""
    head = open_head(spec.head.name)
    live = head_ref(head)
    others = {
        each: open_head(each) for each in (*(s.head for s in spec.shadow), *([spec.canary.head] if spec.canary else []))
    }
    if encoder is not None and encoder[1] != live.fingerprint:
        raise PassportMismatch(
            asker=f"head '{live.head}'",
            expected=f"{live.encoder} ({live.fingerprint})",
            found=f"{encoder[0]} ({encoder[1]})",
            advice=f"Train a head on {encoder[0]}, or deploy with encoder='{live.encoder.split('@')[0]}'.",
        )
    if through is not None and through.target != live.fingerprint:
        raise PassportMismatch(
            asker=f"head '{live.head}'",
            expected=f"{live.encoder} ({live.fingerprint})",
            found=f"through='{through.label.partition('@')[0]}', a bridge that leads to {through.target}",
            advice="Name the bridge that leads to the head's encoder.",
        )
    _check_log(name, spec, live, through, held)
    canary = None
    found = head_ref(others[spec.canary.head]) if spec.canary is not None else live
    if spec.canary is not None and found.head != live.head:  # else it was promoted, and the file names it by an alias
        if found.fingerprint != live.fingerprint:
            raise PassportMismatch(
                asker=f"the canary of deployment '{name}', head '{found.head}',",
                expected=f"the live head's {live.encoder} ({live.fingerprint})",
                found=f"{found.encoder} ({found.fingerprint})",
                advice="Let a head of another encoder run in shadow, and promote it whole.",
            )
        canary = CanaryRef(**found.model_dump(), percent=spec.canary.percent, by=spec.canary.by)
    return DeploymentRecord(
        **live.model_dump(),
        name=name,
        number=0,
        asked=spec.head.name,
        own=Placed(**{field: getattr(spec.head, field) for field in Placed.model_fields}) if spec.head.own else None,
        log=spec.log,
        through=None if through is None else ThroughRef(fingerprint=through.fingerprint, **through.said),
        shadow=_shadows(spec, live, others),
        canary=canary,
        rules=spec.rules,
        review=spec.review,
        keep=tuple(spec.keep),
    )


def _shadows(spec: DeploymentSpec, live: HeadRef, others: Mapping[str, HeadLike]) -> tuple[ShadowRef, ...]:
    """The shadows, but for the one that answers: it was promoted since the file was written, whose alias means it now."""
    found = [ShadowRef(**head_ref(others[each.head]).model_dump(), sample=each.sample) for each in spec.shadow]
    return tuple({each.head: each for each in found if each.head != live.head}.values())


def _check_log(
    name: str, spec: DeploymentSpec, live: HeadRef, through: Bridge | None, held: Callable[[str], list[str]]
) -> None:
    if spec.log is None:
        return
    kept = {live.fingerprint} if through is None else {live.fingerprint, through.source}
    fingerprints = held(spec.log.collection)
    if not kept & set(fingerprints):
        raise PassportMismatch(
            asker=f"the log of deployment '{name}', which holds what head '{live.head}' encodes,",
            expected=f"{live.encoder} ({live.fingerprint})",
            found=f"collection '{spec.log.collection}' of {' and '.join(fingerprints) or 'no encoder'}",
            advice="Log to a collection of the head's encoder.",
        )


def head_ref(head: HeadLike) -> HeadRef:
    voters = head.voters
    return HeadRef(
        head=f"{head.name}@{head.number}",
        fingerprint=head.fingerprint,
        encoder=head.encoder,
        snapshot=None if voters else SnapshotRef(**{k: head.snapshot[k] for k in ("name", "number", "hash")}),
        voters=VotersRef(collection=voters.collection, labels=voters.labels) if voters else None,
    )


def deployment_records(catalog: Catalog) -> dict[str, DeploymentRecord]:
    """The present record of every deployment of the store, by name."""
    found = {name: catalog.latest(catalog.layout.deployment(name)) for name in names(catalog.layout.deployments)}
    return {name: _read(latest[1], latest[0]) for name, latest in found.items() if latest is not None}


def deployment_history(catalog: Catalog, name: str) -> list[DeploymentRecord]:
    """Every record of a deployment, the first one first."""
    folder = catalog.layout.deployment(name)
    latest = catalog.latest(folder)
    numbers = range(1, latest[0] + 1) if latest else ()
    found = ((number, catalog.record(folder, number)) for number in numbers)
    return [_read(record, number) for number, record in found if record is not None]


def _read(record: Mapping[str, Any], number: int) -> DeploymentRecord:
    return DeploymentRecord.model_validate({**{k: v for k, v in record.items() if k != "published_at"}, "number": number})
