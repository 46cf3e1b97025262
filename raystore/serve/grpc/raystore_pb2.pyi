import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Vector(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Strings(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class Kept(_message.Message):
    __slots__ = ("text", "integer", "number", "boolean")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    text: str
    integer: int
    number: float
    boolean: bool
    def __init__(self, text: _Optional[str] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., boolean: _Optional[bool] = ...) -> None: ...

class PredictItem(_message.Message):
    __slots__ = ("id", "text", "image", "vector", "subject", "tenant", "time", "columns")
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Kept
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Kept, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    image: bytes
    vector: Vector
    subject: str
    tenant: str
    time: _timestamp_pb2.Timestamp
    columns: _containers.MessageMap[str, Kept]
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., image: _Optional[bytes] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., subject: _Optional[str] = ..., tenant: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., columns: _Optional[_Mapping[str, Kept]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("deployment", "items", "fingerprint", "top", "evidence")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    items: _containers.RepeatedCompositeFieldContainer[PredictItem]
    fingerprint: str
    top: int
    evidence: int
    def __init__(self, deployment: _Optional[str] = ..., items: _Optional[_Iterable[_Union[PredictItem, _Mapping]]] = ..., fingerprint: _Optional[str] = ..., top: _Optional[int] = ..., evidence: _Optional[int] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("name", "number", "hash")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    hash: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., hash: _Optional[str] = ...) -> None: ...

class Voters(_message.Message):
    __slots__ = ("collection", "labels")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    labels: str
    def __init__(self, collection: _Optional[str] = ..., labels: _Optional[str] = ...) -> None: ...

class Lineage(_message.Message):
    __slots__ = ("deployment", "number", "head", "snapshot", "voters", "encoder", "fingerprint")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    number: int
    head: str
    snapshot: Snapshot
    voters: Voters
    encoder: str
    fingerprint: str
    def __init__(self, deployment: _Optional[str] = ..., number: _Optional[int] = ..., head: _Optional[str] = ..., snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., voters: _Optional[_Union[Voters, _Mapping]] = ..., encoder: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class Fidelity(_message.Message):
    __slots__ = ("kind", "pairs", "n", "gallery", "recall", "kept", "cosine")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    pairs: int
    n: int
    gallery: int
    recall: float
    kept: float
    cosine: float
    def __init__(self, kind: _Optional[str] = ..., pairs: _Optional[int] = ..., n: _Optional[int] = ..., gallery: _Optional[int] = ..., recall: _Optional[float] = ..., kept: _Optional[float] = ..., cosine: _Optional[float] = ...) -> None: ...

class BridgedBy(_message.Message):
    __slots__ = ("encoder", "fidelity")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    fidelity: Fidelity
    def __init__(self, encoder: _Optional[str] = ..., fidelity: _Optional[_Union[Fidelity, _Mapping]] = ...) -> None: ...

class Probability(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("rows",)
    class Row(_message.Message):
        __slots__ = ("id", "label", "score")
        ID_FIELD_NUMBER: _ClassVar[int]
        LABEL_FIELD_NUMBER: _ClassVar[int]
        SCORE_FIELD_NUMBER: _ClassVar[int]
        id: str
        label: str
        score: float
        def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[Evidence.Row]
    def __init__(self, rows: _Optional[_Iterable[_Union[Evidence.Row, _Mapping]]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("id", "by", "rules", "actions", "review", "evidence", "label", "confidence", "abstained", "why", "probabilities", "labels", "value")
    ID_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ABSTAINED_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    id: str
    by: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    actions: Strings
    review: bool
    evidence: Evidence
    label: str
    confidence: float
    abstained: bool
    why: str
    probabilities: _containers.RepeatedCompositeFieldContainer[Probability]
    labels: Strings
    value: float
    def __init__(self, id: _Optional[str] = ..., by: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., actions: _Optional[_Union[Strings, _Mapping]] = ..., review: _Optional[bool] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., label: _Optional[str] = ..., confidence: _Optional[float] = ..., abstained: _Optional[bool] = ..., why: _Optional[str] = ..., probabilities: _Optional[_Iterable[_Union[Probability, _Mapping]]] = ..., labels: _Optional[_Union[Strings, _Mapping]] = ..., value: _Optional[float] = ...) -> None: ...

class PredictAnswer(_message.Message):
    __slots__ = ("predictions", "lineage", "others", "fingerprint", "bridged", "logged", "request_id", "timings_ms")
    class TimingsMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BRIDGED_FIELD_NUMBER: _ClassVar[int]
    LOGGED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    lineage: Lineage
    others: _containers.RepeatedCompositeFieldContainer[Lineage]
    fingerprint: str
    bridged: BridgedBy
    logged: Strings
    request_id: str
    timings_ms: _containers.ScalarMap[str, float]
    def __init__(self, predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ..., others: _Optional[_Iterable[_Union[Lineage, _Mapping]]] = ..., fingerprint: _Optional[str] = ..., bridged: _Optional[_Union[BridgedBy, _Mapping]] = ..., logged: _Optional[_Union[Strings, _Mapping]] = ..., request_id: _Optional[str] = ..., timings_ms: _Optional[_Mapping[str, float]] = ...) -> None: ...

class StreamOptions(_message.Message):
    __slots__ = ("deployment", "fingerprint", "top", "evidence")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    fingerprint: str
    top: int
    evidence: int
    def __init__(self, deployment: _Optional[str] = ..., fingerprint: _Optional[str] = ..., top: _Optional[int] = ..., evidence: _Optional[int] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("options", "item")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    options: StreamOptions
    item: PredictItem
    def __init__(self, options: _Optional[_Union[StreamOptions, _Mapping]] = ..., item: _Optional[_Union[PredictItem, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("type", "message", "request_id", "json")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    request_id: str
    json: str
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., request_id: _Optional[str] = ..., json: _Optional[str] = ...) -> None: ...

class StreamLine(_message.Message):
    __slots__ = ("line", "prediction", "error")
    LINE_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    line: int
    prediction: Prediction
    error: Error
    def __init__(self, line: _Optional[int] = ..., prediction: _Optional[_Union[Prediction, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class StreamDone(_message.Message):
    __slots__ = ("done", "failed", "lineage", "request_id")
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    done: int
    failed: int
    lineage: Lineage
    request_id: str
    def __init__(self, done: _Optional[int] = ..., failed: _Optional[int] = ..., lineage: _Optional[_Union[Lineage, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class StreamAnswer(_message.Message):
    __slots__ = ("line", "done")
    LINE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    line: StreamLine
    done: StreamDone
    def __init__(self, line: _Optional[_Union[StreamLine, _Mapping]] = ..., done: _Optional[_Union[StreamDone, _Mapping]] = ...) -> None: ...

class LogRow(_message.Message):
    __slots__ = ("id", "text", "image", "vector", "subject", "tenant", "time", "columns")
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Kept
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Kept, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    image: bytes
    vector: Vector
    subject: str
    tenant: str
    time: _timestamp_pb2.Timestamp
    columns: _containers.MessageMap[str, Kept]
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., image: _Optional[bytes] = ..., vector: _Optional[_Union[Vector, _Mapping]] = ..., subject: _Optional[str] = ..., tenant: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., columns: _Optional[_Mapping[str, Kept]] = ...) -> None: ...

class LogRequest(_message.Message):
    __slots__ = ("collection", "rows", "fingerprint")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    collection: str
    rows: _containers.RepeatedCompositeFieldContainer[LogRow]
    fingerprint: str
    def __init__(self, collection: _Optional[str] = ..., rows: _Optional[_Iterable[_Union[LogRow, _Mapping]]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class LogAnswer(_message.Message):
    __slots__ = ("added", "known", "version", "fingerprint", "request_id", "timings_ms")
    class TimingsMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ADDED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_MS_FIELD_NUMBER: _ClassVar[int]
    added: int
    known: int
    version: int
    fingerprint: str
    request_id: str
    timings_ms: _containers.ScalarMap[str, float]
    def __init__(self, added: _Optional[int] = ..., known: _Optional[int] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., request_id: _Optional[str] = ..., timings_ms: _Optional[_Mapping[str, float]] = ...) -> None: ...
