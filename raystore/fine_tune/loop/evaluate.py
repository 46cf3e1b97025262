"""How well rows that are not learned from find their own: kNN accuracy and precision at 10. Weights are not touched.

Cost: a forward pass over `evaluate_rows` of val and four times as many of train, spread over the workers, and one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.batches import chunks
from raystore.fine_tune.loop.group import Group, together
from raystore.fine_tune.loop.learns import Embeds
from raystore.fine_tune.loop.micro import Micro, free_memory, is_out_of_memory, too_little_memory
from raystore.train.classify.vote import K, class_votes, vote_shares
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.examples.types import Content, Examples

IntArray = npt.NDArray[np.int64]
_QUERIES = 1_024
_FEW = 8  # rows, below which their variance says nothing


class Look(NamedTuple):
    """Of val's rows: the share whose neighbours' vote is right, and the mean share of 10 neighbours that have their label.

    For pairs: the share whose partner stands first among all of val's, and the share whose partner is one of the 10.
    """

    accuracy: float
    precision: float
    variance: float = (
        1.0  # mean squared distance of the rows that were compared with from their middle; 1 where they are few
    )


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
        return match_pairs(queries, partners, asked.labels)._replace(variance=_variance(partners))
    labelled = train.take(np.flatnonzero(train.labels >= 0))
    known = labelled.take(sampled(len(labelled), 4 * rows, seed))
    queries = embed_all(model, asked.views[0], micro, group)
    references = embed_all(model, known.views[0], micro, group)
    found = vote(queries, asked.labels, references, known.labels, n_classes=max(len(train.classes), 1))
    return found._replace(variance=_variance(references))


def _variance(rows: Matrix) -> float:
    return float(rows.var(axis=0).sum()) if len(rows) >= _FEW else 1.0


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
    """(n, d) float32 of every row in order, in eval mode without graphs; each worker embeds its share, all get the whole.

    Where memory runs out the limits of `micro` are halved and the share is embedded again. Raises JobFailed, with every worker,
    where a single row does not fit.
    """
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
            rows = together(group, lambda: _embed(model, content, own, micro))
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
    """The rows' vectors in order, in chunks that fit into memory."""
    import torch

    lengths, is_text = content.lengths()[rows], content.modality == "text"
    while True:
        groups: Sequence[IntArray] = chunks(lengths, micro.tokens) if is_text else chunks(lengths, len(rows), micro.images)
        parts: list[Tensor] = []
        try:
            for chunk in groups:
                parts += [model.embed(content.modality, content.inputs(rows[chunk]))]
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        failed = groups[len(parts)]
        held = int(lengths[failed].max()) * len(failed) if len(failed) > 1 else 0
        parts.clear()
        free_memory(model.device)
        if not micro.halve(held if is_text else 0, 0 if is_text else held):
            raise too_little_memory()
    embedded = torch.cat(parts)
    places = torch.from_numpy(np.concatenate(groups)).to(embedded.device)
    return torch.empty_like(embedded).index_copy_(0, places, embedded)
