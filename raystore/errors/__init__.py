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

from raystore.errors.base import (
    AlreadyExists,
    DiskFull,
    ExtraNotInstalled,
    InvalidArguments,
    InvalidName,
    JobFailed,
    NotFound,
    Quoting,
    RaystoreError,
    StoreUnusable,
    first_five,
    listed,
)
from raystore.errors.calling import (
    ServiceBusy,
    ServiceDenied,
    ServiceError,
    ServiceRefused,
    ServiceUnreachable,
    SpoolFull,
    SpoolUnusable,
)
from raystore.errors.data import (
    DimensionMismatch,
    IdConflict,
    InvalidRows,
    InvalidVectors,
    ItemsUnusable,
    LeaseLost,
    QueryBusy,
    QueryRefused,
    QueryStopped,
    ShardCorrupt,
    ShardsMissing,
    SnapshotRefused,
    SqlRefused,
    WriterBlocked,
)
from raystore.errors.missing import (
    CollectionNotFound,
    ColumnNotFound,
    DeploymentNotFound,
    EncoderNotFound,
    HeadNotFound,
    IndexNotFound,
    ItemNotFound,
    KeyNotFound,
    PairsNotFound,
    RunNotFound,
    SnapshotNotFound,
    StoreNotFound,
    TableNotFound,
)
from raystore.errors.models import (
    GoldenMoved,
    HeadCorrupt,
    ModelUnusable,
    NotBetter,
    NotMeasured,
    PassportMismatch,
    TrainingCollapsed,
    TrainingDiverged,
)
from raystore.errors.serving import (
    AddressInUse,
    BodyTooLarge,
    BodyTooSlow,
    ColumnsRequired,
    DeadlineMissed,
    GateHeld,
    HookFailed,
    KeyRequired,
    NoSuchRoute,
    NotAllowed,
    Overloaded,
    ProviderUnreachable,
    QuotaExceeded,
    RateExceeded,
    RuleRefused,
    SealBroken,
    WrongMethod,
)

__all__ = [
    "AddressInUse",
    "AlreadyExists",
    "BodyTooLarge",
    "BodyTooSlow",
    "CollectionNotFound",
    "ColumnNotFound",
    "ColumnsRequired",
    "DeadlineMissed",
    "DeploymentNotFound",
    "DimensionMismatch",
    "DiskFull",
    "EncoderNotFound",
    "ExtraNotInstalled",
    "GateHeld",
    "GoldenMoved",
    "HeadCorrupt",
    "HeadNotFound",
    "HookFailed",
    "IdConflict",
    "IndexNotFound",
    "InvalidArguments",
    "InvalidName",
    "InvalidRows",
    "InvalidVectors",
    "ItemNotFound",
    "ItemsUnusable",
    "JobFailed",
    "KeyNotFound",
    "KeyRequired",
    "LeaseLost",
    "ModelUnusable",
    "NoSuchRoute",
    "NotAllowed",
    "NotBetter",
    "NotFound",
    "NotMeasured",
    "Overloaded",
    "PairsNotFound",
    "PassportMismatch",
    "ProviderUnreachable",
    "QueryBusy",
    "QueryRefused",
    "QueryStopped",
    "QuotaExceeded",
    "Quoting",
    "RateExceeded",
    "RaystoreError",
    "RuleRefused",
    "RunNotFound",
    "SealBroken",
    "ServiceBusy",
    "ServiceDenied",
    "ServiceError",
    "ServiceRefused",
    "ServiceUnreachable",
    "ShardCorrupt",
    "ShardsMissing",
    "SnapshotNotFound",
    "SnapshotRefused",
    "SpoolFull",
    "SpoolUnusable",
    "SqlRefused",
    "StoreNotFound",
    "StoreUnusable",
    "TableNotFound",
    "TrainingCollapsed",
    "TrainingDiverged",
    "WriterBlocked",
    "WrongMethod",
    "first_five",
    "listed",
]
