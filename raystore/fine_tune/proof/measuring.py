"""From the vectors of two encoders to a proof. Knows no store, no encoder and no content: vectors, labels and ids go in.

The reference rows are those that training saw; whatever is measured is measured on the queries, which it did not see. How far
a neighbour can be trusted that training saw is said by one more figure, of neighbours among the queries themselves.

Cost: 20,000 reference rows x 3,000 queries of 384 in 77 classes some 10 s on two cores, most of it the two linear heads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from raystore.errors import InvalidArguments, listed
from raystore.fine_tune.proof import scores
from raystore.fine_tune.proof.changes import Change, Pair, auroc_change, class_changes, mean_changes
from raystore.fine_tune.proof.maps import draw_maps
from raystore.fine_tune.proof.near import choose, side_by_side
from raystore.fine_tune.proof.proof import METRICS, STATED, ClassProof, Maps, Proof, TrainingPoint
from raystore.fine_tune.proof.scores import Question
from raystore.fine_tune.proof.space import Nearest, Rows, Space, nearest
from raystore.train.classify.vote import K
from raystore.train.compare.compare import McNemar, mcnemar
from raystore.train.recipe import L2
from raystore.train.report.bootstrap import DRAWS, Floats
from raystore.train.source import Labels

CALL = "measure a proof"
QUERIES_SHOWN = 12
CLASSES_LISTED = 2_000
UNSEEN_ROWS = 20_000  # among so many queries neighbours are sought for precision_unseen; it grows with their square


def measure(
    before: Space,
    after: Space,
    *,
    reference_labels: Labels,
    query_labels: Labels,
    classes: Sequence[str],
    entities: Labels | None = None,
    ids: Sequence[str] | None = None,
    reference_ids: Sequence[str] | None = None,
    out_of_scope: str | None = None,
    ask: Sequence[str] | None = None,
    data: str = "",
    stated: Sequence[str] = STATED,
    curve: Sequence[TrainingPoint] = (),
    k: int = K,
    head: bool = True,
    l2: float = L2,
    maps: Literal["auto", "pca", "umap", "none"] = "auto",
    draws: int = DRAWS,
    seed: int = 0,
) -> Proof:
    """What changed from `before` to `after`, on the queries.

    Args:
        reference_labels: (n,) int64 into `classes` of the rows that training saw; -1 where there is none.
        query_labels: (m,) of the rows it did not see.
        entities: (m,) int64 of the queries, equal for equal entities; each row its own where absent.
        ids, reference_ids: of the rows; their numbers from 0 where absent.
        out_of_scope: the class whose rows belong to no class: they are left out of every figure but how well they are told apart
            (AUROC), by their neighbours' cosines and by the linear head's confidence.
        ask: ids of queries whose neighbours are shown side by side; None is the 12 that changed most, for better and for worse.
        data: what the rows are called, as "tickets.parquet, test".
        stated: what the verdict and the gate go by; those of them that could be measured.
        k: neighbours. head: whether linear heads are fitted, with `l2`. maps: "auto" is UMAP where it is installed, else PCA.

    Raises:
        InvalidArguments: rows, labels and ids do not match, an unknown class or id, nothing to measure; all at once.
        InvalidVectors, DimensionMismatch; ExtraNotInstalled: maps="umap" without umap-learn.
    """
    started = time.perf_counter()
    reference_labels, query_labels = np.asarray(reference_labels), np.asarray(query_labels)
    n, m = len(reference_labels), len(query_labels)
    ids = [str(i) for i in range(m)] if ids is None else ids
    reference_ids = [str(i) for i in range(n)] if reference_ids is None else reference_ids
    kin = np.arange(m) if entities is None else np.unique(entities, return_inverse=True)[1]
    lengths = {"ids": (len(ids), m), "reference_ids": (len(reference_ids), n), "entities": (len(kin), m)}
    _check(before, after, reference_labels, query_labels, classes, lengths, out_of_scope, ask or (), ids, stated)
    before, after = before.checked(CALL), after.checked(CALL)

    outside = classes.index(out_of_scope) if out_of_scope is not None else -2
    kept = np.flatnonzero((reference_labels >= 0) & (reference_labels != outside))
    known = np.zeros(len(classes) + 1, dtype=np.bool_)  # the last place is that of -1
    known[reference_labels[kept]] = True
    scoped, strangers = np.flatnonzero(known[query_labels]), np.flatnonzero(query_labels == outside)
    if not len(scoped):
        raise InvalidArguments(
            call=CALL, problems=["no query has a label that a reference row has, so nothing can be measured"]
        )
    question = Question(reference_labels[kept], query_labels[scoped], kin[scoped], len(classes), k)
    asked_rows = np.concatenate([scoped, strangers])
    spaces = [space.take(kept, asked_rows) for space in (before, after)]
    near = [nearest(space.reference, space.queries, k) for space in spaces]

    pairs, confidence = _rows_scored(spaces, near, question, head=head, l2=l2, seed=seed)
    metrics = mean_changes(pairs, question.entities, draws=draws, seed=seed)
    metrics |= _strangers_told(near, confidence, len(scoped), kin[asked_rows], draws, seed)
    rows = _shown(ask, ids, asked_rows) if ask is not None else choose(*pairs["precision"], question.queries, QUERIES_SHOWN)
    there = [name for name in stated if name in metrics]
    return Proof(
        before=before.name,
        after=after.name,
        before_fingerprint=before.fingerprint,
        after_fingerprint=after.fingerprint,
        data=data,
        rows=len(scoped),
        entities=len(np.unique(question.entities)),
        n_classes=len(np.unique(question.queries)),
        reference_rows=len(kept),
        out_of_scope=out_of_scope,
        out_of_scope_rows=len(strangers),
        left_out=_left_out(query_labels, known, outside),
        k=min(k, len(kept)),
        classes=tuple(classes),
        stated=tuple(there),
        metrics=metrics,
        mcnemar={name: _mcnemar(pairs[name]) for name in ("knn_accuracy", "head_accuracy") if name in pairs},
        per_class=_classes(pairs, question, classes, draws, seed),
        neighbours=side_by_side(
            rows, *near, labels=query_labels[asked_rows], reference_labels=question.reference, classes=classes,
            ids=[ids[i] for i in asked_rows.tolist()], reference_ids=[reference_ids[i] for i in kept.tolist()],
        ),
        maps=None if maps == "none" else _maps(spaces, query_labels[asked_rows], [ids[i] for i in asked_rows.tolist()], maps, seed),
        curve=tuple(curve),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _rows_scored(
    spaces: Sequence[Space], near: Sequence[Nearest], question: Question, *, head: bool, l2: float, seed: int
) -> tuple[dict[str, Pair], list[Floats]]:
    """Each figure of the rows in scope under both encoders, and the heads' confidence in all rows."""
    m = len(question.queries)
    sampled = np.sort(np.random.default_rng(seed).permutation(m)[:UNSEEN_ROWS])
    sides, confidence = [], []
    for space, found in zip(spaces, near, strict=True):
        mine = Nearest(found.rows[:m], found.cosines[:m])
        side = scores.neighbour_scores(mine, question)
        side["precision_unseen"] = scores.unseen_precision(space.queries[:m], question, sampled)
        if head and len(np.unique(question.reference)) > 1:
            said, sure = scores.head_says(space, question, l2)
            side["head_accuracy"] = (said[:m] == question.queries).astype(np.float64)
            confidence.append(sure)
        side["silhouette"] = scores.silhouette(space.queries[:m], question.queries, question.n_classes)
        sides.append(side)
    return {name: (sides[0][name], sides[1][name]) for name in sides[0]}, confidence


def _strangers_told(
    near: Sequence[Nearest], confidence: Sequence[Floats], scoped: int, entities: Labels, draws: int, seed: int
) -> dict[str, Change]:
    """How well rows in scope are told from those out of it, which stand behind them."""
    inside = np.arange(len(entities)) < scoped
    pairs = {"oos_neighbours": [scores.at_home(side) for side in near], "oos_head": list(confidence)}
    found = {
        name: auroc_change(pair[0], pair[1], inside, entities, draws=draws, seed=seed)
        for name, pair in pairs.items()
        if pair
    }
    return {name: each for name, each in found.items() if each is not None}


def _classes(
    pairs: dict[str, Pair], question: Question, classes: Sequence[str], draws: int, seed: int
) -> tuple[ClassProof, ...]:
    """In the order of `classes`; where there are more than 2,000 with rows, those that have most."""
    sizes = np.bincount(question.queries, minlength=len(classes))
    chosen = np.sort(np.argsort(-sizes, kind="stable")[: min(CLASSES_LISTED, int((sizes > 0).sum()))])
    rows = np.flatnonzero(np.isin(question.queries, chosen))
    codes, kin = np.searchsorted(chosen, question.queries[rows]).astype(np.int64), question.entities[rows]
    precision, named = (
        class_changes(before[rows], after[rows], codes, len(chosen), kin, draws=draws, seed=seed)
        for before, after in (pairs["precision"], pairs["knn_accuracy"])
    )
    there = np.bincount(question.reference, minlength=len(classes))
    return tuple(
        ClassProof(label=classes[code], reference_rows=int(there[code]), precision=p, knn_accuracy=a)
        for code, p, a in zip(chosen.tolist(), precision, named, strict=True)
    )


def _mcnemar(pair: Pair) -> McNemar:
    right = [side > 0.5 for side in pair]
    return mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))


def _maps(
    spaces: Sequence[Space], codes: Labels, ids: Sequence[str], method: Literal["auto", "pca", "umap"], seed: int
) -> Maps | None:
    if len(ids) < 3:
        return None
    return draw_maps(spaces[0].queries, spaces[1].queries, codes, ids, method=method, seed=seed)


def _shown(ask: Sequence[str], ids: Sequence[str], rows: Rows) -> Rows:
    place = {ids[i]: at for at, i in enumerate(rows.tolist())}
    return np.array([place[id_] for id_ in ask if id_ in place], dtype=np.int64)


def _left_out(labels: Labels, known: Any, outside: int) -> dict[str, int]:
    without = int((labels < 0).sum())
    strange = int((~known[labels] & (labels >= 0) & (labels != outside)).sum())
    counts = {"no label": without, "a label that no reference row has": strange}
    return {reason: count for reason, count in counts.items() if count}


def _check(
    before: Space,
    after: Space,
    reference_labels: Labels,
    query_labels: Labels,
    classes: Sequence[str],
    lengths: dict[str, tuple[int, int]],
    out_of_scope: str | None,
    ask: Sequence[str],
    ids: Sequence[str],
    stated: Sequence[str],
) -> None:
    problems = []
    for space in (before, after):
        for noun, vectors, labels in (
            ("reference", space.reference, reference_labels),
            ("query", space.queries, query_labels),
        ):
            if len(vectors) != len(labels):
                problems.append(
                    f"there are {len(vectors):,} {noun} vectors of {space.name} and {len(labels):,} {noun} labels"
                )
    problems += [
        f"there are {found:,} {name}= for {rows:,} rows" for name, (found, rows) in lengths.items() if found != rows
    ]
    for noun, labels in (("reference", reference_labels), ("query", query_labels)):
        if len(labels) and (labels.min() < -1 or labels.max() >= len(classes)):
            problems.append(f"{noun} labels are numbers from 0 to {len(classes) - 1}, or -1 for none")
    if out_of_scope is not None and out_of_scope not in classes:
        problems.append(f"out_of_scope= names no class; there are: {listed(classes)}")
    if unknown := sorted(set(ask) - set(ids)):
        problems.append(f"ask= names ids that no query has: {listed(unknown)}")
    if unknown := [name for name in stated if name not in METRICS]:
        problems.append(f"there is no figure {listed(unknown)}; there are: {', '.join(METRICS)}")
    if problems:
        raise InvalidArguments(call=CALL, problems=problems)
