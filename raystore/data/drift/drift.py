"""Have the data changed? Class balance, embeddings, and which classes moved, from two samples in memory.

Pure statistics over NumPy arrays. Every p-value comes with the sizes it rests on; those of the embeddings and of the classes are
from permutations, so they hold at any size and for any distribution, as long as rows are drawn independently. Knows no store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from scipy.stats import chi2, rankdata

from raystore.data.drift.report import Balance, ClassShift, DriftReport, EmbeddingDrift, ShareChange
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix

ALARM = 0.01
LEAST_PERMUTATIONS = (
    200  # twice the smallest p-value that n permutations can give is 2 / (n + 1), which must be below ALARM
)
_CLASS_PERMUTATIONS = 1_999
_MOVED = 0.05
_MOST_A_CLASS = 500
_LEAST_A_CLASS = 8  # rows of a class on each side, for its mean to say something
_FOLDS = 5
_PENALTY = 1.0
_STEPS = 12  # the areas stand still from here on, to 0.001

Labels = Sequence[str | Sequence[str] | None]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Rows to compare: vectors (n, d) float32 unit rows; their labels (a class, several, or None where unlabelled), or none
    at all; their ids, where the two samples may share rows."""

    vectors: Matrix
    labels: Labels | None
    name: str
    ids: Sequence[str] | None = None


class Drawn(NamedTuple):
    """Places, ascending, of the rows that are compared, and how many rows stand in both samples."""

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    shared: int


def drift(a: Sample, b: Sample, *, seed: int = 0, permutations: int = 200, sample: int = 4_000) -> DriftReport:
    """Whether and how `b` differs from `a`.

    Args:
        permutations: of the embedding tests, 200 or more: with fewer no p-value could be small enough for an alarm.
        sample: how many rows of each the embedding tests and the class shifts draw at most, by `seed`. The class balance takes
            all rows. A row that stands in both (by `ids`) is drawn for one of them, at random: the tests are of independent rows.

    Raises:
        InvalidArguments: fewer than 10 rows on a side, vectors of two lengths, labels that are not one a row, fewer permutations.

    Cost: 4,000 rows of 384 numbers on each side: about 4 s on 2 cores, 400 MB; a quarter of both for 2,000. Fewer rows see less: of a
        year's change in arXiv titles 2,000 a side gave the alarm in 5 draws of 8, 4,000 in all.
    """
    problems = [
        f"{n} of '{s.name}' are {len(x)}, expected {len(s.vectors)}, one a row"
        for s in (a, b)
        for n, x in (("labels", s.labels), ("ids", s.ids))
        if x is not None and len(x) != len(s.vectors)
    ]
    if a.vectors.ndim == b.vectors.ndim == 2 and a.vectors.shape[1] != b.vectors.shape[1]:
        problems.append(
            f"the vectors of '{a.name}' have {a.vectors.shape[1]} numbers, those of '{b.name}' {b.vectors.shape[1]}"
        )
    check_settings(a.name, b.name, permutations, sample, problems)
    rng = np.random.default_rng(seed)
    drawn = draw(a.ids or range(len(a.vectors)), b.ids or range(-len(b.vectors), 0), rng, sample)
    return measure(
        (a.name, b.name),
        (a.labels, b.labels),
        (len(a.vectors), len(b.vectors)),
        (a.vectors[drawn.a], b.vectors[drawn.b]),
        drawn,
        rng,
        permutations,
    )


def check_settings(a: str, b: str, permutations: int, sample: int, problems: Sequence[str] = ()) -> None:
    """Raise InvalidArguments with these problems and those of the settings, if there are any."""
    found = list(problems)
    if permutations < LEAST_PERMUTATIONS:
        found.append(
            f"permutations is {permutations}, expected {LEAST_PERMUTATIONS} or more: fewer cannot give p < {ALARM}"
        )
    if not 10 <= sample <= 10_000:
        found.append(f"sample is {sample}, expected 10 to 10,000")
    if found:
        raise InvalidArguments(call=f"drift of '{a}' and '{b}'", problems=found)


def draw(a: Sequence[Any], b: Sequence[Any], rng: np.random.Generator, sample: int) -> Drawn:
    """At most `sample` places of each of two lists of ids, no id drawn for both."""
    places = {id_: place for place, id_ in enumerate(a)}
    both = [(places[id_], place) for place, id_ in enumerate(b) if id_ in places]
    to_b = rng.random(len(both)) < 0.5
    keep_a, keep_b = np.ones(len(a), np.bool_), np.ones(len(b), np.bool_)
    for (at_a, at_b), goes_to_b in zip(both, to_b, strict=True):
        (keep_a if goes_to_b else keep_b)[at_a if goes_to_b else at_b] = False
    chosen = [
        np.sort(rng.choice(own, size=min(sample, len(own)), replace=False)).astype(np.int64)
        if len(own)
        else np.empty(0, np.int64)
        for own in (np.flatnonzero(keep_a), np.flatnonzero(keep_b))
    ]
    return Drawn(chosen[0], chosen[1], len(both))


def measure(
    names: tuple[str, str],
    labels: tuple[Labels | None, Labels | None],
    rows: tuple[int, int],
    vectors: tuple[Matrix, Matrix],
    drawn: Drawn,
    rng: np.random.Generator,
    permutations: int,
    note: str = "",
) -> DriftReport:
    """The report, from the labels of all rows and the vectors of the drawn ones, in the order of their places."""
    few = [(name, len(x)) for name, x in zip(names, vectors, strict=True) if len(x) < 10]
    if few:
        problems = [f"'{name}' has {n} rows to draw that the other has not, expected 10 or more" for name, n in few]
        raise InvalidArguments(call=f"drift of '{names[0]}' and '{names[1]}'", problems=problems)
    x, y = (np.asarray(v, dtype=np.float32) for v in vectors)
    balance: Balance | None = None
    classes: list[ClassShift] = []
    if labels[0] is not None and labels[1] is not None:
        own, other = [labels[0][i] for i in drawn.a], [labels[1][i] for i in drawn.b]
        balance = class_balance(labels[0], labels[1], shared=drawn.shared, independent=(own, other))
        classes = class_shifts(x, own, y, other, rng)
    return DriftReport(
        a=names[0],
        b=names[1],
        rows=rows,
        shared=drawn.shared,
        balance=balance,
        embedding=embedding_drift(x, y, rng, permutations),
        classes=classes,
        threshold=ALARM,
        note=note,
    )


# --- class balance ------------------------------------------------------------------------------------------------------


def class_balance(a: Labels, b: Labels, *, shared: int = 0, independent: tuple[Labels, Labels] | None = None) -> Balance:
    """Each class's share of the labelled rows, largest change first, and a p-value of the hypothesis that they are equal.

    The p-value is of a G test (log-likelihood ratio) over all rows, with classes expected fewer than 5 times on a side put together;
    where rows stand in both samples, over the `independent` rows. With several labels a row: the smallest of one G test a label,
    times how many there are (Bonferroni).
    """
    counts = _counts(a), _counts(b)
    sizes = sum(x is not None for x in a), sum(x is not None for x in b)
    changes = [ShareChange(name, counts[0][name], counts[1][name], *sizes) for name in sorted(counts[0] | counts[1])]
    changes.sort(key=lambda c: (-round(abs(c.change), 12), c.label))  # equal changes in the order of their names
    tested = independent if shared and independent is not None else (a, b)
    own = _counts(tested[0]), _counts(tested[1])
    n = sum(x is not None for x in tested[0]), sum(x is not None for x in tested[1])
    names = sorted(own[0] | own[1])
    table = np.array([[c[name] for name in names] for c in own], np.float64).reshape(2, -1)
    if any(not isinstance(x, str) and x is not None for x in (*tested[0], *tested[1])):
        each = [_g_test(np.array([[k, m - k] for k, m in zip(table[:, i], n, strict=True)])) for i in range(len(names))]
        p_value = min(1.0, len(each) * min(each, default=1.0))
    else:
        p_value = _g_test(table)
    return Balance(changes=changes, p_value=p_value, sizes=n, unlabelled=(len(a) - sizes[0], len(b) - sizes[1]))


def _counts(labels: Labels) -> Counter[str]:
    return Counter(
        one
        for label in labels
        if label is not None
        for one in ([label] if isinstance(label, str) else dict.fromkeys(label))
    )


def _g_test(table: Floats) -> float:
    """The p-value of equal shares in a (2, classes) table of counts; rare classes are one class.

    Source: Sokal & Rohlf, Biometry (1995), 17.4; Williams' correction.
    """
    table = table[:, table.sum(axis=0) > 0]
    total = table.sum()
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return 1.0
    rare = (np.outer(table.sum(axis=1), table.sum(axis=0)) / total < 5).any(axis=0)
    if rare.any():
        table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    if table.shape[1] < 2:
        return 1.0
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    expected = np.outer(rows, columns) / total
    g = 2 * float(np.sum(table * np.log(np.where(table > 0, table / expected, 1.0))))
    freedom = table.shape[1] - 1
    correction = 1 + (total * (1 / rows).sum() - 1) * (total * (1 / columns).sum() - 1) / (6 * total * freedom)
    return float(chi2.sf(g / correction, freedom))


# --- classes that moved -------------------------------------------------------------------------------------------------


def class_shifts(x: Matrix, labels_x: Labels, y: Matrix, labels_y: Labels, rng: np.random.Generator) -> list[ClassShift]:
    """For each class with enough rows on both sides: how far its mean moved, and a permutation p-value; smallest p first.

    The distance is what remains of the squared distance of the two means when what chance alone gives is taken off (a U-statistic,
    at least 0), as a root, from at most 500 rows a side. Which classes moved is decided by Holm (1979) among all of them: the chance
    that any is named that did not move is at most 0.05.
    """
    of_x, of_y = _places(labels_x), _places(labels_y)
    names = [n for n in sorted(of_x.keys() & of_y.keys()) if min(len(of_x[n]), len(of_y[n])) >= _LEAST_A_CLASS]
    permutations = max(_CLASS_PERMUTATIONS, 40 * len(names))  # so that the smallest p-value passes among so many
    found = []
    for name in names:
        own, other = (rng.permutation(places)[:_MOST_A_CLASS] for places in (of_x[name], of_y[name]))
        rows = np.concatenate([x[own], y[other]])
        rows -= rows.mean(axis=0)  # the statistic does not depend on the origin, its rounding does
        values = _mean_discrepancies(rows @ rows.T, _assignments(len(own), len(other), permutations, rng))
        found.append((name, len(own), len(other), float(values[0]), _p_value(values)))
    found.sort(key=lambda row: (row[4], -row[3], row[0]))
    stays = next((i for i, row in enumerate(found) if row[4] > _MOVED / (len(found) - i)), len(found))
    return [
        ClassShift(name, n, m, float(np.sqrt(max(value, 0.0))), p, rank < stays)
        for rank, (name, n, m, value, p) in enumerate(found)
    ]


def _places(labels: Labels) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        for one in [label] if isinstance(label, str) else dict.fromkeys(label or ()):
            found.setdefault(one, []).append(place)
    return found


# --- embeddings ---------------------------------------------------------------------------------------------------------


def embedding_drift(x: Matrix, y: Matrix, rng: np.random.Generator, permutations: int) -> EmbeddingDrift:
    """Two tests of one distribution, each with the same permutations, and one p-value of both: twice the smaller (Bonferroni).

    So the chance of a false alarm at 0.01 is at most 0.01. The classifier sees differences along a line, MMD any difference.
    """
    assignments = _assignments(len(x), len(y), permutations, rng)
    rows = np.concatenate([x, y])
    areas = classifier_areas(rows, assignments, rng)
    kernel, width = rbf_kernel(rows)
    discrepancies = _mean_discrepancies(kernel, assignments)
    p_auc, p_mmd = _p_value(areas), _p_value(discrepancies)
    return EmbeddingDrift(
        auc=float(areas[0]),
        auc_p_value=p_auc,
        mmd2=float(discrepancies[0]),
        mmd_p_value=p_mmd,
        kernel_width=width,
        p_value=min(1.0, 2 * min(p_auc, p_mmd)),
        sizes=(len(x), len(y)),
        permutations=permutations,
    )


def rbf_kernel(rows: Matrix) -> tuple[Matrix, float]:
    """(n, n) float32 exp(-|u - v|^2 / (2 w^2)) and w, the median distance of different rows (the median heuristic).

    Source: Gretton, Borgwardt, Rasch, Schoelkopf & Smola, A Kernel Two-Sample Test, JMLR 13 (2012), section 8.
    """
    norms = np.einsum("ij,ij->i", rows, rows)
    kernel = rows @ rows.T  # becomes squared distances, then the kernel, in its own memory
    kernel *= -2
    kernel += norms[:, None]
    kernel += norms[None, :]
    np.maximum(kernel, 0, out=kernel)
    step = max(1, len(rows) // 1_000)
    some = kernel[::step, ::step]
    distances = np.sqrt(some[~np.eye(len(some), dtype=np.bool_)])
    apart = distances[distances > 1e-3]  # what is nearer is the same row to float32's rounding
    width = float(np.median(distances if np.median(distances) > 1e-3 or not len(apart) else apart))
    width = width if width > 1e-3 else 1.0
    kernel *= -0.5 / width**2
    np.exp(kernel, out=kernel)
    return kernel, width


def _mean_discrepancies(kernel: npt.NDArray[Any], assignments: npt.NDArray[np.bool_]) -> Floats:
    """(1 + permutations,) the unbiased MMD^2 of each assignment of the rows to two samples; the first is the real one.

    Source: Gretton et al. (2012), equation 3: the sums over pairs of different rows within each sample, and over all pairs between.
    All assignments are one matrix product: with s the 0/1 vector of a sample, s'Ks is its sum.
    """
    s = assignments.astype(kernel.dtype)  # (1 + permutations, n)
    product = s @ kernel
    within = np.einsum("ij,ij->i", product, s, dtype=np.float64)
    whole = product.sum(axis=1, dtype=np.float64)
    total, diagonal = float(kernel.sum(dtype=np.float64)), np.diag(kernel).astype(np.float64)
    own = assignments @ diagonal
    n = assignments.sum(axis=1).astype(np.float64)
    m = assignments.shape[1] - n
    between = whole - within
    other = total - within - 2 * between
    found: Floats = (
        (within - own) / (n * (n - 1)) + (other - (diagonal.sum() - own)) / (m * (m - 1)) - 2 * between / (n * m)
    )
    return found


def classifier_areas(rows: Matrix, assignments: npt.NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """(1 + permutations,) the area under the ROC curve of a logistic regression that tells the two samples apart, on rows that
    it was not fitted on (5 folds), for each assignment.

    All regressions of a fold are fitted together by Newton's method with the fixed bound of the Hessian, X'X / 4 + penalty, which
    makes every step one matrix product for all of them (Boehning & Lindsay 1988). Source of the test: Lopez-Paz & Oquab, Revisiting
    Classifier Two-Sample Tests (2017).
    """
    folds = rng.permutation(len(rows)) % _FOLDS
    centred = np.column_stack([rows - rows.mean(axis=0), np.ones(len(rows), np.float32)]).astype(np.float32)
    truth = assignments.T.astype(np.float32)  # (n, 1 + permutations)
    penalty = np.full((centred.shape[1], 1), _PENALTY, np.float32)
    penalty[-1] = 1e-3  # the intercept: its fit is not held back, only kept finite
    above, pairs = np.zeros(len(assignments)), np.zeros(len(assignments))
    for fold in range(_FOLDS):
        own, held = folds != fold, folds == fold
        x, y = centred[own], truth[own]
        inverse = np.linalg.inv((x.T @ x).astype(np.float64) / 4 + np.diag(penalty[:, 0])).astype(np.float32)
        weights = np.zeros((x.shape[1], len(assignments)), np.float32)
        for _ in range(_STEPS):
            probability = expit(x @ weights)
            weights += inverse @ (x.T @ (y - probability) - penalty * weights)
        ranks = rankdata(centred[held] @ weights, axis=0)
        n = truth[held].sum(axis=0, dtype=np.float64)
        above += (ranks * truth[held]).sum(axis=0) - n * (n + 1) / 2  # Mann & Whitney's U, of the pairs within the fold
        pairs += n * (np.count_nonzero(held) - n)
    found: Floats = above / pairs
    return found


def _assignments(n: int, m: int, permutations: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """(1 + permutations, n + m) which rows belong to the first sample: as they are, then at random."""
    real = np.arange(n + m) < n
    return np.stack([real, *(rng.permutation(real) for _ in range(permutations))])


def _p_value(values: Floats) -> float:
    """How often chance gives as much as the first value, the first counted among them (Phipson & Smyth 2010)."""
    return float((1 + np.count_nonzero(values[1:] >= values[0] - 1e-12)) / len(values))
