"""Every error raystore raises on purpose, in one tree.

    RaystoreError
    ├── NotFound (LookupError)              404  names what there is
    │   ├── StoreNotFound, EncoderNotFound, CollectionNotFound, TableNotFound, SnapshotNotFound
    │   └── HeadNotFound, IndexNotFound, PairsNotFound, DeploymentNotFound, KeyNotFound, RunNotFound, ItemNotFound, ColumnNotFound
    ├── AlreadyExists (FileExistsError)     409
    ├── StoreUnusable (OSError)             500  no store, a newer format, a root not supported yet
    ├── InvalidName (ValueError)            422
    ├── InvalidArguments (ValueError)       422  several bad arguments at once
    ├── InvalidRows (ValueError)            422  several bad rows at once
    ├── InvalidVectors (ValueError)         422  NaN, infinite, zero, wrong shape
    ├── ItemsUnusable (ValueError)          422  images that cannot be read, items an encoder does not take
    ├── DimensionMismatch (ValueError)      422
    ├── BodyTooLarge (ValueError)           413
    ├── BodyTooSlow (TimeoutError)          408  a body, or the next line of a stream, that did not come in time
    ├── SqlRefused (ValueError)             422  does not parse, does not bind, writes
    │   └── QueryRefused
    ├── SnapshotRefused (ValueError)        422  duplicates, null labels, classes missing from train
    ├── PassportMismatch (ValueError)       409  a vector of one encoder met another
    ├── NotBetter (ValueError)              409  a fine-tuned encoder whose proof says that a figure fell, or cannot say
    │   └── NotMeasured
    ├── GoldenMoved (ValueError)            409  an encoder no longer encodes what it did
    ├── ModelUnusable (ValueError)          422  no weights, pickled weights, changed weights
    ├── IdConflict (ValueError)             409  a known id with another payload
    ├── LeaseLost (RuntimeError)            503  another writer took over before the commit
    ├── WriterBlocked (TimeoutError)        503  the writer before us cannot be waited out
    ├── ShardCorrupt (ValueError)           500  a shard file is not what its manifest says
    ├── HeadCorrupt (ValueError)            500  a head's file is not what was published
    ├── ShardsMissing (RuntimeError)        503  no shard answered
    ├── DiskFull (OSError)                  507
    ├── AddressInUse (OSError)              503
    ├── KeyRequired (PermissionError)       401
    ├── NotAllowed (PermissionError)        403  a valid key or token without this verb
    ├── NoSuchRoute (LookupError)           404  over HTTP; what is no route is not let in
    ├── WrongMethod (ValueError)            405  over HTTP
    ├── RateExceeded (RuntimeError)         429  more requests or bytes than a key may send
    ├── ProviderUnreachable (ConnectionError) 503  the keys that tokens are checked with cannot be read
    ├── JobFailed (RuntimeError)            500  a worker died or raised; says how to go on
    ├── TrainingCollapsed (RuntimeError)    422  fine-tuning put all rows into one place
    ├── TrainingDiverged (RuntimeError)     422  fine-tuning got worse with every step, or its loss is no number
    ├── ExtraNotInstalled (ImportError)     501
    ├── QueryStopped (RuntimeError)         422  SQL over HTTP that met a limit of time, memory or size
    ├── QueryBusy (RuntimeError)            503  as much SQL runs as may run at once
    ├── Overloaded (RuntimeError)           503  a replica has as many requests as it takes
    ├── DeadlineMissed (TimeoutError)       504  the time a request gave ran out before it was answered
    ├── SealBroken (ValueError)             500  sealed content of another store, or changed on its way
    ├── GateHeld (ValueError)               409  a promotion whose condition does not hold
    ├── RuleRefused (PermissionError)       403  a deployment's rule refuses this request
    ├── ColumnsRequired (ValueError)        422  a deployment's rule wants columns that a request lacks
    ├── QuotaExceeded (RuntimeError)        429  a deployment's rule counts requests, and they are used up for now
    ├── HookFailed (RuntimeError)           500  a rule's Python hook raised, or returned what it cannot
    ├── ServiceError (RuntimeError)         502  what a service answered to raystore.client, as it said it
    │   ├── ServiceRefused, ServiceDenied
    │   └── ServiceBusy (RuntimeError)      503  it asks to come back later
    ├── ServiceUnreachable (ConnectionError) 503  no answer came in time
    ├── SpoolFull (OSError)                 507  of raystore.source
    └── SpoolUnusable (OSError)             500  held by another process, or not a spool

Each class carries its facts as attributes, makes its sentence in `__str__`, and survives pickling,
so it arrives whole from a Ray worker. No sentence and no fact ever holds raw content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

_FINGERPRINT = re.compile(r"\b[0-9a-f]{64}\b")


def _revive(cls: type[RaystoreError], facts: Mapping[str, Any]) -> RaystoreError:
    return cls(**facts)


class RaystoreError(Exception):
    """Base of the tree. `status` is the HTTP status an ingress answers with."""

    status: ClassVar[int] = 500

    @property
    def facts(self) -> dict[str, Any]:
        """The facts by name, JSON-ready where the facts are."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.facts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def listed(names: Sequence[str], limit: int = 8) -> str:
    """'a', 'b' and 3 more; or 'none'."""
    if not names:
        return "none"
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


@dataclass(eq=False, kw_only=True, repr=False)
class NotFound(RaystoreError, LookupError):
    status = 404
    noun: ClassVar[str] = "thing"
    name: str
    where: str
    existing: Sequence[str] = ()

    def __str__(self) -> str:
        has = f"It has: {listed(self.existing)}." if self.existing else f"It has no {self.noun}."
        return f"no {self.noun} '{self.name}' in {self.where}. {has}"


class StoreNotFound(NotFound):
    noun = "store"

    def __str__(self) -> str:
        return (
            f"no store at '{self.name}': {self.where}. Make one with raystore.open(root) "
            "on a folder that is empty or does not exist."
        )


class EncoderNotFound(NotFound):
    noun = "encoder"


class CollectionNotFound(NotFound):
    noun = "collection"


class TableNotFound(NotFound):
    noun = "table"


class SnapshotNotFound(NotFound):
    noun = "snapshot"


class HeadNotFound(NotFound):
    noun = "head"


class IndexNotFound(NotFound):
    noun = "index"

    def __str__(self) -> str:
        if self.existing:
            return f"no index '{self.name}' over {self.where}. It has: {listed(self.existing)}."
        return f"no index over {self.where}. Build one: collection.build_index() or `raystore index build`."


class PairsNotFound(NotFound):
    noun = "table of pairs"


class DeploymentNotFound(NotFound):
    noun = "deployment"


class KeyNotFound(NotFound):
    noun = "key"


class RunNotFound(NotFound):
    noun = "run"


class ItemNotFound(NotFound):
    noun = "item"

    def __str__(self) -> str:
        return f"no item '{self.name}' in {self.where}."


class ColumnNotFound(NotFound):
    noun = "column"


@dataclass(eq=False, kw_only=True, repr=False)
class AlreadyExists(RaystoreError, FileExistsError):
    status = 409
    noun: str
    name: str
    advice: str

    def __str__(self) -> str:
        return f"{self.noun} '{self.name}' exists already. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class StoreUnusable(RaystoreError, OSError):
    root: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"cannot open a store at '{self.root}': {self.found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidName(RaystoreError, ValueError):
    status = 422
    noun: str
    name: str
    expected: str

    def __str__(self) -> str:
        return f"'{self.name}' is no name for {self.noun}: expected {self.expected}."


class Quoting(str):
    """A problem's sentence that quotes what was given. `unquoted` says the same without, for who is told over a network."""

    unquoted: str

    def __new__(cls, sentence: str, unquoted: str) -> Quoting:
        made = super().__new__(cls, sentence)
        made.unquoted = unquoted
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Quoting, (str(self), self.unquoted)


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidArguments(RaystoreError, ValueError):
    """`problems` are whole sentences without raw content, all found in one look; one that repeats a text that was given is a
    `Quoting`."""

    status = 422
    call: str
    problems: Sequence[str]

    def __str__(self) -> str:
        said = "; ".join(self.problems)
        return f"{self.call}: {said}" + ("" if said.endswith("?") else ".")


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidRows(RaystoreError, ValueError):
    """`problems` are (row number, id or None, reason); nothing of the call was written."""

    status = 422
    collection: str
    n_rows: int
    problems: Sequence[tuple[int, str | None, str]]

    def __str__(self) -> str:
        shown = "; ".join(
            f"row {row}" + (f" (id '{id_}')" if id_ is not None else "") + f": {reason}"
            for row, id_, reason in self.problems[:5]
        )
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        return (
            f"{len({row for row, _, _ in self.problems})} of {self.n_rows} rows for collection '{self.collection}' cannot be "
            f"written: {shown}{more}. Nothing was written."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class InvalidVectors(RaystoreError, ValueError):
    """`problems` are (row number, reason)."""

    status = 422
    call: str
    n_vectors: int
    problems: Sequence[tuple[int, str]]

    def __str__(self) -> str:
        shown = "; ".join(f"vector {row} {reason}" for row, reason in self.problems[:5])
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        return f"{self.call}: {len(self.problems)} of {self.n_vectors} vectors are unusable: {shown}{more}."


@dataclass(eq=False, kw_only=True, repr=False)
class ItemsUnusable(RaystoreError, ValueError):
    """Texts or images that cannot be encoded; `problems` are (place from 0, reason), and quote nothing."""

    status = 422
    call: str
    n_items: int
    problems: Sequence[tuple[int, str]]

    def __str__(self) -> str:
        shown = "; ".join(f"item {place} {reason}" for place, reason in self.problems[:5])
        more = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
        return f"{self.call}: {len(self.problems)} of {self.n_items} items are unusable: {shown}{more}."


@dataclass(eq=False, kw_only=True, repr=False)
class DimensionMismatch(RaystoreError, ValueError):
    status = 422
    call: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.call}: expected vectors of {self.expected} numbers, found {self.found}."


@dataclass(eq=False, kw_only=True, repr=False)
class BodyTooLarge(RaystoreError, ValueError):
    status = 413
    what: str
    found: int
    limit: int
    unit: str = "bytes"

    def __str__(self) -> str:
        return f"{self.what} has {self.found} {self.unit}, over the limit of {self.limit}."


@dataclass(eq=False, kw_only=True, repr=False)
class BodyTooSlow(RaystoreError, TimeoutError):
    status = 408
    what: str
    within_s: float

    def __str__(self) -> str:
        return f"{self.what} did not come whole within {self.within_s:g} s, and is waited for no longer."


@dataclass(eq=False, kw_only=True, repr=False)
class SqlRefused(RaystoreError, ValueError):
    status = 422
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return f"this SQL was not run: {self.reason}." + (f" {self.advice}" if self.advice else "")


@dataclass(eq=False, kw_only=True, repr=False)
class SnapshotRefused(RaystoreError, ValueError):
    status = 422
    name: str
    problems: Sequence[str]

    def __str__(self) -> str:
        return f"snapshot '{self.name}' was not taken: " + "; ".join(self.problems) + "."


@dataclass(eq=False, kw_only=True, repr=False)
class PassportMismatch(RaystoreError, ValueError):
    """`expected` and `found` are fingerprints, with the encoder's name where it is known; the sentence has their first 12 digits."""

    status = 409
    asker: str
    expected: str
    found: str
    advice: str

    def __str__(self) -> str:
        expected, found = _short(self.expected), _short(self.found)
        if expected == found:  # the first digits alike
            expected, found = self.expected, self.found
        return f"{self.asker} expects {expected}, but was given {found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class NotBetter(RaystoreError, ValueError):
    """`low` and `high` bound the difference with 95% confidence; both are the difference where too few rows gave no interval.
    `also`: the other figures that fell."""

    status = 409
    encoder: str
    metric: str
    before: float
    after: float
    low: float
    high: float
    advice: str
    also: Sequence[str] = ()

    def __str__(self) -> str:
        sure = f", 95% interval {self.low:+.3f} to {self.high:+.3f}" if self.low < self.high else ""
        also = f", and so did {listed(self.also)}" if self.also else ""
        return (
            f"encoder '{self.encoder}' was not made live: its {self.metric} fell from {self.before:.3f} to {self.after:.3f} "
            f"(difference {self.after - self.before:+.3f}{sure}){also}. {self.advice}"
        )


@dataclass(eq=False, kw_only=True, repr=False)
class NotMeasured(NotBetter):
    """A figure is required that the rows cannot say, so there are no numbers of it."""

    before: float = math.nan
    after: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in super().facts.items() if fact == fact}  # NaN is no JSON

    def __str__(self) -> str:
        named = listed([self.metric, *self.also])
        return (
            f"encoder '{self.encoder}' was not made live: these rows cannot say {named}, which must not fall. {self.advice}"
        )


def _short(told: str) -> str:
    """Fingerprints by the digits that the store's names hold."""
    return _FINGERPRINT.sub(lambda found: found[0][:12], told)


@dataclass(eq=False, kw_only=True, repr=False)
class GoldenMoved(RaystoreError, ValueError):
    status = 409
    encoder: str
    backend: str
    modality: str
    worst_input: int
    cosine: float
    tolerance: float

    def __str__(self) -> str:
        return (
            f"encoder {self.encoder} on backend {self.backend} no longer encodes its golden inputs: "
            f"{self.modality} {self.worst_input} came out at cosine {self.cosine:.6f}, at least {self.tolerance} is required. "
            "It was not loaded. Register what this model has become under a name of its own, or use another backend."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class ModelUnusable(RaystoreError, ValueError):
    status = 422
    model: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"model '{self.model}' cannot be used: {self.found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class IdConflict(RaystoreError, ValueError):
    status = 409
    collection: str
    ids: Sequence[str]

    def __str__(self) -> str:
        return (
            f"collection '{self.collection}' already holds {listed(self.ids)} with another payload. A row never "
            "changes: log the new content under a new id. Nothing was written."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class LeaseLost(RaystoreError, RuntimeError):
    status = 503
    folder: str
    token: int
    found: int

    def __str__(self) -> str:
        return (
            f"the writer lease {self.token} on '{self.folder}' ran out and writer {self.found} took over; "
            "nothing was committed. Repeat the call."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class WriterBlocked(RaystoreError, TimeoutError):
    status = 503
    folder: str
    waited_s: float
    holder: str

    def __str__(self) -> str:
        return (
            f"waited {self.waited_s:.1f} s to write to '{self.folder}', held by {self.holder}. Nothing was written. "
            "Repeat the call; if it stays so, end that process."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class ShardCorrupt(RaystoreError, ValueError):
    path: str
    found: str

    def __str__(self) -> str:
        return f"index file '{self.path}' is unusable: {self.found}. It was not loaded; the shard is rebuilt."


@dataclass(eq=False, kw_only=True, repr=False)
class HeadCorrupt(RaystoreError, ValueError):
    path: str
    found: str
    advice: str = "Restore the folder, or train the head again."

    def __str__(self) -> str:
        return f"head '{self.path}' is unusable: {self.found}. It was not loaded. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class ShardsMissing(RaystoreError, RuntimeError):
    status = 503
    index: str
    missing: Sequence[int]

    def __str__(self) -> str:
        return f"no shard of index {self.index} answered (missing: {list(self.missing)}). Try again; they restart by themselves."


@dataclass(eq=False, kw_only=True, repr=False)
class DiskFull(RaystoreError, OSError):
    status = 507
    folder: str
    doing: str

    def __str__(self) -> str:
        return (
            f"no space left on the disk of '{self.folder}' while {self.doing}. What was acknowledged before is safe, "
            "the rest was not written. Free space and repeat the call; it goes on where it stopped."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class AddressInUse(RaystoreError, OSError):
    status = 503
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port} is in use. Stop what listens there, or choose another port (port=, --port)."


@dataclass(eq=False, kw_only=True, repr=False)
class KeyRequired(RaystoreError, PermissionError):
    status = 401
    reason: str

    def __str__(self) -> str:
        return f"a key is required: {self.reason}. Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."


@dataclass(eq=False, kw_only=True, repr=False)
class NotAllowed(RaystoreError, PermissionError):
    status = 403
    principal: str
    verb: str
    kind: str = "key"  # or token

    def __str__(self) -> str:
        return f"{self.kind} '{self.principal}' lacks the verb '{self.verb}'. Ask for a {self.kind} that has it."


@dataclass(eq=False, kw_only=True, repr=False)
class NoSuchRoute(RaystoreError, LookupError):
    status = 404

    def __str__(self) -> str:
        return "there is no such route. GET /openapi.json lists them."


@dataclass(eq=False, kw_only=True, repr=False)
class WrongMethod(RaystoreError, ValueError):
    status = 405
    allowed: Sequence[str]

    def __str__(self) -> str:
        return f"this route takes {' or '.join(self.allowed)}."


@dataclass(eq=False, kw_only=True, repr=False)
class RateExceeded(RaystoreError, RuntimeError):
    """`limit` is of `unit` a second; after `retry_after_s` the next request is let in, if none came meanwhile."""

    status = 429
    limit: float
    unit: str
    retry_after_s: float

    def __str__(self) -> str:
        return f"the limit of {self.limit:.10g} {self.unit} a second is reached. Try again in {self.retry_after_s:.2f} s."


@dataclass(eq=False, kw_only=True, repr=False)
class ProviderUnreachable(RaystoreError, ConnectionError):
    status = 503

    def __str__(self) -> str:
        return "no token can be checked: the public keys of the identity provider cannot be read. Try again."


@dataclass(eq=False, kw_only=True, repr=False)
class JobFailed(RaystoreError, RuntimeError):
    job: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.job} failed: {self.reason}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class TrainingCollapsed(RaystoreError, RuntimeError):
    """`variance` is the mean squared distance of the rows from their middle (1: spread all over), `rank` their effective
    dimensions, `kept` the step of the last good checkpoint, 0 where there is none."""

    status = 422
    step: int
    found: str
    variance: float
    rank: float
    kept: int

    def __str__(self) -> str:
        return (
            f"fine-tuning stopped at step {self.step}: {self.found} (variance {self.variance:.2g}, effective rank {self.rank:.1f}). "
            f"Try a lower learning_rate, a higher temperature, or larger batches: that begins anew.{_goes_on(self.kept)}"
        )


@dataclass(eq=False, kw_only=True, repr=False)
class TrainingDiverged(RaystoreError, RuntimeError):
    status = 422
    step: int
    found: str
    learning_rate: float
    kept: int

    def __str__(self) -> str:
        return (
            f"fine-tuning stopped at step {self.step}: {self.found}. Try learning_rate={self.learning_rate / 5:.2g} "
            f"(it was {self.learning_rate:.2g}), or a longer warmup: that begins anew.{_goes_on(self.kept)}"
        )


def _goes_on(kept: int) -> str:
    """What the last good checkpoint of a training that was stopped is for."""
    if kept == 0:
        return ""
    return (
        f" The same call would go on from the weights of step {kept} and most likely stop again; they stay for a week under the "
        f"store's tmp/fine_tune, as last-{kept}/weights.safetensors."
    )


@dataclass(eq=False, kw_only=True, repr=False)
class ExtraNotInstalled(RaystoreError, ImportError):
    status = 501
    what: str
    package: str
    extra: str = ""  # of raystore; without one the package is installed by itself

    def __str__(self) -> str:
        source = f"'raystore[{self.extra}]'" if self.extra else self.package
        return f"{self.what} need {self.package}. Install it: pip install {source}"


@dataclass(eq=False, kw_only=True, repr=False)
class QueryRefused(SqlRefused):
    """SQL over HTTP that was not run: `reason` and `advice` hold names of the store and of SQL, nothing of the query's own."""


@dataclass(eq=False, kw_only=True, repr=False)
class QueryStopped(RaystoreError, RuntimeError):
    status = 422
    reason: str

    def __str__(self) -> str:
        return f"this SQL was stopped: {self.reason}. Ask for less: filter, group, or LIMIT."


@dataclass(eq=False, kw_only=True, repr=False)
class QueryBusy(RaystoreError, RuntimeError):
    status = 503
    limit: int

    def __str__(self) -> str:
        return f"{self.limit} SQL queries run here at once, and as many are running. Try again."


@dataclass(eq=False, kw_only=True, repr=False)
class RuleRefused(RaystoreError, PermissionError):
    """`sentence` is the rule's own, from the deployment file or its hook; `item` the place, from 0, of what was refused."""

    status = 403
    rule: str
    sentence: str
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        sentence = self.sentence if self.sentence[-1:] in (".", "!", "?", "'") else f"{self.sentence}."
        return f"rule '{self.rule}' refuses {_item(self.item, self.n_items)}: {sentence}"


@dataclass(eq=False, kw_only=True, repr=False)
class ColumnsRequired(RaystoreError, ValueError):
    """`missing` are names that the rule asks for, in its order."""

    status = 422
    rule: str
    missing: Sequence[str]
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        return f"rule '{self.rule}' requires what {_item(self.item, self.n_items)} lacks, or has as null: {listed(self.missing)}."


@dataclass(eq=False, kw_only=True, repr=False)
class QuotaExceeded(RaystoreError, RuntimeError):
    """`requests` in `window_s` are the whole service's; `retry_after_s` is when this replica would let one more pass."""

    status = 429
    rule: str
    requests: int
    window_s: float
    retry_after_s: float
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        return (
            f"rule '{self.rule}' lets {self.requests} pass in {self.window_s:g} s, and {_item(self.item, self.n_items)} is one more. "
            f"Try again in {self.retry_after_s:.3g} s."
        )


def _item(place: int, n_items: int) -> str:
    return "this request" if n_items == 1 else f"item {place} of {n_items}"


@dataclass(eq=False, kw_only=True, repr=False)
class HookFailed(RaystoreError, RuntimeError):
    """`found` has the type of what was raised or returned, never its text."""

    rule: str
    found: str

    def __str__(self) -> str:
        return f"the hook of rule '{self.rule}' {self.found}. The request was not answered."


@dataclass(eq=False, kw_only=True, repr=False)
class ServiceError(RaystoreError, RuntimeError):
    """What a service answered to `raystore.client`: `type`, `message` and `details` as it said them, of which nothing was sent to it.

    Its class says what to do: `ServiceRefused` (the same request would be refused again), `ServiceDenied` (the key), `ServiceBusy`
    (later); the base itself is a failure of the service. `retry_after_s` is 0 where it named no time.
    """

    status = 502
    status_code: int
    type: str
    message: str
    request_id: str
    retry_after_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the service answered {self.status_code} {self.type} to request {self.request_id}: {self.message}"


class ServiceRefused(ServiceError):
    """4xx: the request has to change."""


class ServiceDenied(ServiceError):
    """401 and 403: the key is missing, unknown, or lacks the verb."""


class ServiceBusy(ServiceError):
    """429, 503 and 504, after the retries that fitted into the deadline."""

    status = 503


@dataclass(eq=False, kw_only=True, repr=False)
class ServiceUnreachable(RaystoreError, ConnectionError):
    status = 503
    url: str
    found: str
    attempts: int
    request_id: str

    def __str__(self) -> str:
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return (
            f"no answer from {self.url} to request {self.request_id}: {self.found}, tried {times}. "
            "Check that the service runs, or give it more time (timeout_s=, deadline_s=)."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class SpoolFull(RaystoreError, OSError):
    status = 507
    folder: str
    rows: int
    max_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows were not kept: the spool in '{self.folder}' holds as much as it may, {self.max_bytes} bytes. What it "
            "holds is safe and is sent when the service answers again. Repeat the call then, or give it more room (max_spool_bytes=)."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class SpoolUnusable(RaystoreError, OSError):
    folder: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"the spool in '{self.folder}' cannot be used: {self.found}. {self.advice}"


@dataclass(eq=False, kw_only=True, repr=False)
class Overloaded(RaystoreError, RuntimeError):
    status = 503
    limit: int
    what: str = "requests are under way"

    def __str__(self) -> str:
        return f"{self.limit} {self.what} here, and no more are taken. Try again in a moment."


@dataclass(eq=False, kw_only=True, repr=False)
class DeadlineMissed(RaystoreError, TimeoutError):
    status = 504
    deadline_s: float
    stage: str

    def __str__(self) -> str:
        return f"the request was given {self.deadline_s:g} s, and they ran out {self.stage}. Nothing was answered."


@dataclass(eq=False, kw_only=True, repr=False)
class SealBroken(RaystoreError, ValueError):
    def __str__(self) -> str:
        return "sealed content does not open with this store's key: it is another store's, or was changed on its way."


@dataclass(eq=False, kw_only=True, repr=False)
class GateHeld(RaystoreError, ValueError):
    status = 409
    head: str
    gate: str
    found: str

    def __str__(self) -> str:
        return f"head '{self.head}' is not promoted: {self.gate} does not hold ({self.found}). Nothing was changed."
