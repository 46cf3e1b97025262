"""How well rows that are not learned from find their own: kNN accuracy and precision at 10. Weights are not touched.

Cost: a forward pass over `evaluate_rows` of val and four times as many of train, spread over the workers, and one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.batches import chunks
from raystore.fine_tune.loop.group import Group
from raystore.fine_tune.loop.learns import Embeds
from raystore.fine_tune.loop.micro import Micro
from raystore.train.classify.vote import K, class_votes, vote_shares
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.examples.types import Content, Examples

IntArray = npt.NDArray[np.int64]
_QUERIES = 1_024


class Look(NamedTuple):
    """Of val's rows: the share whose neighbours' vote is right, and the mean share of 10 neighbours that have their label.

    For pairs: the share whose partner stands first among all of val's, and the share whose partner is one of the 10.
    """

    accuracy: float
    precision: float


def sampled(n: int, most: int, seed: int) -> IntArray:
    """(min(n, most),) row numbers, sorted; the same for the same seed."""
    if n <= most:
        return np.arange(n)
    chosen: IntArray = np.sort(np.random.default_rng([seed, n]).choice(n, most, replace=False))
    return chosen


def look(model: Embeds, train: Examples, val: Examples, *, rows: int, micro: Micro, group: Group, seed: int = 0) -> Look:
    """Val's rows among train's (pairs: among their partners), samples of each; the same on every worker."""
    asked = val.take(sampled(len(val), rows, seed))
    if len(val.views) > 1:
        queries, partners = (embed_all(model, view, micro, group) for view in asked.views)
        return match_pairs(queries, partners, asked.labels)
    labelled = train.take(np.flatnonzero(train.labels >= 0))
    known = labelled.take(sampled(len(labelled), 4 * rows, seed))
    queries = embed_all(model, asked.views[0], micro, group)
    references = embed_all(model, known.views[0], micro, group)
    return vote(queries, asked.labels, references, known.labels, n_classes=max(len(train.classes), 1))


def vote(queries: Matrix, labels: IntArray, references: Matrix, known: IntArray, *, n_classes: int) -> Look:
    """What the K nearest references say of (m, d) unit queries, weighted by similarity. Pure."""
    k = min(K, len(references))
    n_classes = max(n_classes, int(known.max(initial=0)) + 1)
    right = 0.0
    alike = 0.0
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        cosines = queries[part] @ references.T
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        shares = vote_shares(np.take_along_axis(cosines, near, axis=1))
        said = class_votes(shares, known[near], n_classes).argmax(axis=1)
        right += float((said == labels[part]).sum())
        alike += float((known[near] == labels[part, None]).mean(axis=1).sum())
    return Look(right / len(queries), alike / len(queries))


def match_pairs(queries: Matrix, partners: Matrix, labels: IntArray) -> Look:
    """How many of (m, d) unit queries find a partner of their label first, and among the first K. Pure."""
    k = min(K, len(partners))
    first = 0.0
    among = 0.0
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        cosines = queries[part] @ partners.T
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        hits = labels[near] == labels[part, None]
        best = np.take_along_axis(cosines, near, axis=1).argmax(axis=1)
        first += float(hits[np.arange(len(hits)), best].sum())
        among += float(hits.any(axis=1).sum())
    return Look(first / len(queries), among / len(queries))


def embed_all(model: Embeds, content: Content, micro: Micro, group: Group) -> Matrix:
    """(n, d) float32 of every row in order, in eval mode without graphs; each worker embeds its share, all get the whole."""
    import torch

    n = len(content)
    share = -(-n // group.world)
    # Rows are dealt by length, so that no worker has all the long ones; the last are filled up with the first.
    order = np.argsort(content.lengths(), kind="stable")
    dealt = np.concatenate([order, np.resize(order, share * group.world - n)]) if n else order
    own = dealt[group.rank :: group.world]
    was_training = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            rows = _embed(model, content, own, micro)
            gathered = group.gather(rows)
    finally:
        model.module.train(was_training)
    # (world, share) as gathered -> place in `dealt` -> row
    places = np.arange(share * group.world).reshape(share, group.world).T.reshape(-1)
    vectors = gathered.float().cpu().numpy()
    out: Matrix = np.empty((n, vectors.shape[1]), dtype=np.float32)
    out[dealt[places]] = vectors
    return out


def _embed(model: Embeds, content: Content, rows: IntArray, micro: Micro) -> Tensor:
    import torch

    lengths = content.lengths()[rows]
    is_text = content.modality == "text"
    tokens = max(micro.tokens, int(lengths.max(initial=1))) if is_text else len(rows)
    groups: Sequence[IntArray] = chunks(lengths, tokens, len(rows) if is_text else micro.images)
    parts = [model.embed(content.modality, content.inputs(rows[chunk])) for chunk in groups]
    together = torch.cat(parts)
    places = torch.from_numpy(np.concatenate(groups)).to(together.device)
    return torch.empty_like(together).index_copy_(0, places, together)
