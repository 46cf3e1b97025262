"""The proof of a fine-tuning: what changed from one encoder to the other, on rows that training did not see. A frozen record.

It goes to JSON and back whole, and holds ids, labels and numbers, never content: items are handed in where it is shown. How it is
measured stands in measuring.py, how it is shown in text.py and html.py, what it allows in gate.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from raystore.fine_tune.proof.changes import Change
from raystore.train.compare.compare import McNemar

Verdict = Literal["better", "not better", "cannot tell"]
MapMethod = Literal["pca", "umap"]

METRICS = ("knn_accuracy", "precision", "precision_unseen", "head_accuracy", "silhouette", "oos_neighbours", "oos_head")
STATED = ("knn_accuracy", "precision", "head_accuracy", "oos_neighbours")
MARGIN = 0.005  # a gain that is surely smaller is none
_LEVEL = 0.05


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ClassProof(Frozen):
    """One class: the share of its rows' neighbours that have its label, and of its rows that the neighbours name right."""

    label: str
    reference_rows: int
    precision: Change
    knn_accuracy: Change

    @property
    def rows(self) -> int:
        return self.precision.rows


class Neighbour(Frozen):
    """A reference row that is near: its id, its label, its cosine."""

    id: str
    label: str
    cosine: float


class Asked(Frozen):
    """A row that training did not see, and its neighbours among the reference rows under both encoders, nearest first."""

    id: str
    label: str
    before: tuple[Neighbour, ...]
    after: tuple[Neighbour, ...]

    @property
    def right(self) -> tuple[int, int]:
        """How many neighbours have its label, before and after."""
        before, after = (sum(each.label == self.label for each in side) for side in (self.before, self.after))
        return before, after


class Maps(Frozen):
    """Some of the unseen rows in the plane, under both encoders: x and y from 0 to 1000. `codes` are places in `Proof.classes`.

    The second map is turned and mirrored so that it lies on the first as well as it can; that changes no distance in it.
    `shown`: the share of the variance that the plane holds, of PCA alone.
    """

    method: MapMethod
    ids: tuple[str, ...]
    codes: tuple[int, ...]
    before: tuple[tuple[int, int], ...]
    after: tuple[tuple[int, int], ...]
    shown: tuple[float, float] | None = None


class TrainingPoint(Frozen):
    """A point of the training's curve."""

    step: int
    loss: float | None = None
    val_accuracy: float | None = None


class Proof(Frozen):
    """What changed from `before` to `after`.

    `metrics`, by name: knn_accuracy, precision, precision_unseen, head_accuracy, silhouette, oos_neighbours, oos_head; those that
    could be measured. `stated`: the ones the verdict and the gate go by. `per_class`: 2,000 classes at most, those with most rows.
    `left_out`: unseen rows that no figure holds, by reason.
    """

    before: str
    after: str
    before_fingerprint: str = ""
    after_fingerprint: str = ""
    data: str = ""
    rows: int
    entities: int
    n_classes: int  # among the rows
    reference_rows: int
    out_of_scope: str | None = None
    out_of_scope_rows: int = 0
    left_out: dict[str, int] = {}
    k: int
    classes: tuple[str, ...]
    stated: tuple[str, ...]
    metrics: dict[str, Change]
    mcnemar: dict[str, McNemar] = {}
    per_class: tuple[ClassProof, ...] = ()
    neighbours: tuple[Asked, ...] = ()
    maps: Maps | None = None
    curve: tuple[TrainingPoint, ...] = ()
    seconds: float = 0.0

    @property
    def rose(self) -> tuple[str, ...]:
        """The stated metrics whose interval lies above 0."""
        return tuple(name for name in self.stated if self.metrics[name].rose)

    @property
    def fell(self) -> tuple[str, ...]:
        """The stated metrics whose interval lies below 0."""
        return tuple(name for name in self.stated if self.metrics[name].fell)

    @property
    def verdict(self) -> Verdict:
        """ "better": a stated metric rose and none fell. The rise must hold for as many looks as there are stated metrics
        (Bonferroni). "not better": one fell, or each is surely below half a point of gain. Else "cannot tell"."""
        stated = [self.metrics[name] for name in self.stated]
        if self.fell:
            return "not better"
        if any(c.rose and c.p is not None and c.p * len(stated) < _LEVEL for c in stated):
            return "better"
        surely_none = all(c.high is not None and c.high < MARGIN for c in stated)
        return "not better" if stated and surely_none else "cannot tell"

    @property
    def better(self) -> bool:
        return self.verdict == "better"

    @property
    def headline(self) -> str:
        """The verdict in a sentence: on how many rows, by how much, how sure."""
        from raystore.fine_tune.proof.words import headline

        return headline(self)

    @property
    def worse_classes(self) -> tuple[ClassProof, ...]:
        """The classes whose neighbours got worse, those first that did beyond what their few rows can do by chance."""
        worse = (c for c in self.per_class if c.precision.value < 0)
        return tuple(sorted(worse, key=lambda c: (not c.precision.fell, c.precision.value, c.label)))

    def to_html(self, items: Mapping[str, str] | None = None) -> str:
        """One HTML file that asks no network, with the two maps. `items`: by id, texts or data:image addresses to show beside
        the ids of neighbours, where they may be shown; without it the page holds ids, labels and numbers alone."""
        from raystore.fine_tune.proof.html import page

        return page(self, items or {})

    def to_text(self, items: Mapping[str, str] | None = None) -> str:
        """As `str` shows it; with `items` as in `to_html`."""
        from raystore.fine_tune.proof.text import text

        return text(self, items or {})

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        from raystore.fine_tune.proof.html import summary

        return summary(self)
