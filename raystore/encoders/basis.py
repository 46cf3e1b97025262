"""What ways to run an encoder are compared on: the user's sample, or items that lie on every machine, of every kind it takes.

An encoder of texts and images is one encoder: whether another way is still it is decided on both, whatever the sample
holds. Items that cannot be encoded are left out and counted. Reads no file and prints no item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raystore.encoders.equivalence import sample_items
from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.measure import check_sample, kind_of
from raystore.encoders.passport import Modality
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix

_REASONS = 3  # that are named where hardly an item can be encoded


@dataclass(frozen=True)
class Basis:
    """`items` of every kind the encoder takes, with the reference's `vectors`; `timed` are the kinds that speed is asked for.

    `labels` are those of the only timed kind. `left_out` items of the sample cannot be encoded, or are alone with their label.
    """

    items: Mapping[Modality, Sequence[Item]]
    vectors: Mapping[Modality, Matrix]
    timed: tuple[Modality, ...]
    labels: list[str] | None = None
    left_out: int = 0
    generated: int = 0  # of the items


def basis(reference: LoadedEncoder, sample: Sequence[Item] | None, labels: Sequence[str] | None, call: str) -> Basis:
    """The sample under its kind and generated items for the kinds it lacks, all of them encoded once.

    Raises:
        InvalidArguments: a bad sample, or one of which fewer than 2 items can be encoded; their reasons are counted.
    """
    check_sample(call, sample, labels)
    takes = reference.passport.modalities
    own = kind_of(sample) if sample is not None else None
    items: dict[Modality, Sequence[Item]] = {}
    vectors: dict[Modality, Matrix] = {}
    kept_labels: list[str] | None = None
    left_out = generated = 0
    if sample is not None and own is not None:
        found = reference.encode_each(sample)
        places = found.places.tolist()
        if labels is not None:  # a class of one item cannot be learnt
            sizes = Counter(labels[place] for place in places)
            places = [place for place in places if sizes[labels[place]] > 1]
            kept_labels = [labels[place] for place in places]
        left_out = len(sample) - len(places)
        if len(places) < 2 or (kept_labels is not None and len(set(kept_labels)) < 2):
            raise InvalidArguments(call=call, problems=[_too_few(len(places), len(sample), found.problems, labels)])
        rows = {place: row for row, place in enumerate(found.places.tolist())}
        items[own] = [sample[place] for place in places]
        vectors[own] = found.vectors[[rows[place] for place in places]]
    for modality in takes:
        if modality not in items:
            items[modality] = sample_items(modality)
            vectors[modality] = reference.encode(items[modality])
            generated += len(items[modality])
    return Basis(items, vectors, takes if own is None else (own,), kept_labels, left_out, generated)


def _too_few(good: int, given: int, problems: Mapping[int, str], labels: Sequence[str] | None) -> str:
    counted = Counter(problems.values()).most_common(_REASONS)
    why = f" ({'; '.join(f'{n:,} times: {reason}' for reason, n in counted)})" if counted else ""
    wanted = "at least 2" if labels is None else "two classes or more, and 2 items or more of each"
    return f"{good:,} of the sample's {given:,} items can be used{why}, expected {wanted}"
