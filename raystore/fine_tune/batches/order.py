"""In which order the classes of a round come, so that those which are easily mixed up meet in one batch. Pure NumPy.

Each function returns the same entries in another order, so how often a class is drawn never changes. An entry is a class
code; with classes drawn by size a class has several.
"""

from __future__ import annotations

import numpy as np

from raystore.fine_tune.batches.batch import IntArray


def siblings_together(entries: IntArray, parents: IntArray, chance: np.random.Generator) -> IntArray:
    """About half of the entries as whole families, member after member, evenly mixed into the rest as it was.

    `parents` (c,) is each class's parent code. A batch, which is a stretch of the order, is then half siblings and half
    anything. Families are chosen anew by `chance` each time. Cost: two sorts.
    """
    codes, family, sizes = np.unique(parents[entries], return_inverse=True, return_counts=True)
    turn = chance.permutation(len(codes))  # (families,) the order in which families are taken
    before = np.cumsum(sizes[turn]) - sizes[turn]  # entries of the families taken earlier
    place = np.empty(len(codes), dtype=np.int64)
    place[turn] = np.arange(len(codes))
    grouped = (before < len(entries) / 2)[place[family]]
    together = entries[grouped][np.argsort(place[family[grouped]], kind="stable")]
    rest = entries[~grouped]
    spread = [(np.arange(len(part)) + 0.5) / max(1, len(part)) for part in (together, rest)]
    mixed: IntArray = np.concatenate([together, rest])[np.argsort(np.concatenate(spread), kind="stable")]
    return mixed


def confused_together(entries: IntArray, neighbours: list[list[int]], share: float) -> IntArray:
    """Entries in their order, each followed by classes it is confused with, which make up `share` of the whole while there are any.

    `neighbours[c]` are the classes that c is confused with, most first; -1 and unknown ones are passed over. Cost: a Python
    step an entry (50,000 take some 30 ms).
    """
    left = np.bincount(entries, minlength=len(neighbours)).tolist()
    ahead = [0] * len(left)  # how many of a class's entries were taken before their turn
    a_leader = share / (1 - share) if share < 1 else float(len(left))
    order: list[int] = []
    owed = 0.0
    for entry in entries.tolist():
        if ahead[entry]:
            ahead[entry] -= 1
            continue
        order.append(entry)
        left[entry] -= 1
        owed += a_leader
        for other in neighbours[entry] if entry < len(neighbours) else ():
            if owed < 1:
                break
            if other != entry and 0 <= other < len(left) and left[other]:
                order.append(other)
                left[other] -= 1
                ahead[other] += 1
                owed -= 1
        owed %= 1
    return np.array(order, dtype=np.int64)
