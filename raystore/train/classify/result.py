"""What a classification answers: labels, how sure, why not, and the rows it stands on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from raystore.layout import FP12
from raystore.markup import rows_html
from raystore.vectors import Matrix

_SHOWN = 20
_EVIDENCE_SHOWN = 3


class Neighbour(NamedTuple):
    """A labelled row that voted: its id, its cosine, its label."""

    id: str
    score: float
    label: str


class Evidence(Sequence[list[Neighbour]]):
    """Of each text, the labelled rows that voted, nearest first. Kept as arrays, and made when it is looked at: of a batch of
    1,024 texts it would cost more than all the searching.

    Args:
        rows, cosines, codes: (m, k) row ids, cosines and classes; a code of -1 is no neighbour.
        names: the ids of those rows.
        classes: by code.
    """

    def __init__(
        self,
        rows: npt.NDArray[np.int64],
        cosines: Matrix,
        codes: npt.NDArray[np.int64],
        names: Mapping[int, str],
        classes: Sequence[str],
    ) -> None:
        self._rows, self._cosines, self._codes, self._names, self._classes = rows, cosines, codes, names, classes

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> list[Neighbour]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[Neighbour]]: ...
    def __getitem__(self, at: int | slice) -> list[Neighbour] | list[list[Neighbour]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        line = zip(self._rows[at].tolist(), self._cosines[at].tolist(), self._codes[at].tolist(), strict=True)
        return [Neighbour(self._names[row], cosine, self._classes[code]) for row, cosine, code in line if code >= 0]


@dataclass(frozen=True, repr=False)
class Classified:
    """One answer a text, in their order.

    `labels[i]` is the most probable class, `confidence` (m,) its probability, `probabilities` (m, c) float32 those of `classes`.
    Where `abstained[i]`, the label is a guess, and `why[i]` says what is amiss (None elsewhere). `evidence[i]` are the labelled rows
    that voted, nearest first; none where descriptions alone did. `coverage` is the share of the rows that was searched, `missing`
    the shards that did not answer, `labels_version` the label table's version, None where the labels are a kept column or there
    are none.
    """

    labels: list[str]
    probabilities: Matrix
    confidence: Matrix
    abstained: npt.NDArray[np.bool_]
    why: list[str | None]
    evidence: Sequence[list[Neighbour]]
    classes: tuple[str, ...]
    fingerprint: str
    index_version: int | None
    collection_version: int
    labels_version: int | None
    coverage: float
    missing: list[int]
    exact: bool

    def to_dicts(self, top: int = 5) -> list[dict[str, Any]]:
        """One dict a text, ready for JSON: label, confidence, abstained, why, the `top` probabilities, and the evidence."""
        best = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        return [
            {
                "label": label,
                "confidence": float(self.confidence[i]),
                "abstained": bool(self.abstained[i]),
                "why": self.why[i],
                "probabilities": [
                    {"label": self.classes[j], "probability": float(self.probabilities[i, j])} for j in best[i].tolist()
                ],
                "evidence": [neighbour._asdict() for neighbour in self.evidence[i]],
            }
            for i, label in enumerate(self.labels)
        ]

    def __len__(self) -> int:
        return len(self.labels)

    def _about(self) -> str:
        index = "the collection itself" if self.index_version is None else f"index {self.index_version}"
        missing = f", missing shards {self.missing}" if self.missing else ""
        return (
            f"{len(self.labels)} {'text' if len(self) == 1 else 'texts'} into {len(self.classes)} classes by {index}, coverage "
            f"{self.coverage:.4g}{missing}, encoder {self.fingerprint[:FP12]}, version {self.collection_version}"
        )

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "label": label,
                "confidence": f"{self.confidence[i]:.1%}",
                "abstained": self.why[i],
                "evidence": ", ".join(f"{n.id} ({n.label}, {n.score:.3f})" for n in self.evidence[i][:_EVIDENCE_SHOWN]),
            }
            for i, label in enumerate(self.labels[:_SHOWN])
        ]

    def __repr__(self) -> str:
        lines = [
            "  ".join(part for part in (f"{r['confidence']:>6}", r["label"], r["evidence"], r["abstained"]) if part)
            for r in self._rows()
        ]
        more = [f"... and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        return "\n".join([f"Classified: {self._about()}", *lines, *more])

    def _repr_html_(self) -> str:
        more = f"{len(self) - _SHOWN} more texts" if len(self) > _SHOWN else ""
        return rows_html(self._rows(), ["label", "confidence", "abstained", "evidence"], title=self._about(), note=more)
