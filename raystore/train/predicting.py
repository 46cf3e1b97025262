"""What a head says of rows of a collection, as a table: what a published copy keeps beside the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.publish.parts import Predictions
from raystore.train.heads import Head


def predictions_of(head: Head, table: CollectionTable) -> Predictions:
    """The head over the collection's vectors of its encoder; see `predicted`.

    Raises:
        PassportMismatch: the collection holds no vectors of the head's encoder.
    """
    table.check_encoder(head.fingerprint, head.encoder)
    return Predictions(head=head.label, fingerprint=head.fingerprint, of=lambda ids: predicted(head, table, ids))


def predicted(head: Head, table: CollectionTable, ids: Sequence[str]) -> pa.Table:
    """id, label (text, a list of texts, or a number), confidence (float32), abstained (bool); ids without a vector are left out."""
    present, vectors = table.vectors_found(list(ids), head.fingerprint)
    own = [id_ for id_, there in zip(ids, present, strict=True) if there]
    answers = head.predict(vectors, leave_out=own if _asks(head, table) else ())
    kinds = {"classes": pa.string(), "labels": pa.list_(pa.string()), "number": pa.float64()}
    return pa.table(
        {
            "id": pa.array(ids, pa.string()).filter(pa.array(present)),
            "label": pa.array(answers.labels, kinds[head.task]),
            "confidence": pa.array(np.asarray(answers.confidence, dtype=np.float32)),
            "abstained": pa.array(np.asarray(answers.abstained, dtype=bool)),
        }
    )


def _asks(head: Head, table: CollectionTable) -> bool:
    """Whether the head counts the votes of this collection's rows, so that a row must not vote for itself."""
    return head.record.voters is not None and head.record.voters.collection == table.name
