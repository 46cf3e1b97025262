"""Whether two ways to run an encoder put out the same vectors: on real sentences and generated pictures, not on trust.

The result decides, not the arithmetic inside: OpenVINO computes in bfloat16 where the processor has it and still
stays within 0.99997 of torch's float32 on all-MiniLM-L6-v2.
"""

from __future__ import annotations

from collections.abc import Sequence

from raystore.encoders.exports import Equivalence, neighbour_overlap, worst_cosine
from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.passport import Modality

TEXTS = 1_000
_CUTS = (40, 60, 80, 120, 240)  # characters
IMAGES = 64  # an image costs as much as twenty sentences


class NotEquivalent(Exception):
    """A backend's vectors are not the reference's; the encoder it would make is another one."""

    def __init__(self, backend: str, found: Equivalence) -> None:
        super().__init__(f"its vectors are not those of torch: {found.said}")
        self.backend = backend
        self.found = found


def sample_items(modality: Modality) -> Sequence[Item]:
    """Items that lie on every machine: sentences of Python's own documentation, or generated pictures."""
    if modality == "text":
        from raystore.encoders.sample import sample_texts

        # Cut, to lengths that differ: a paragraph costs torch as much as ten sentences, and tells no more here.
        return [text[: _CUTS[i % len(_CUTS)]] for i, text in enumerate(sample_texts(TEXTS))]
    from raystore.encoders.image_probes import sample_images

    return sample_images(IMAGES)


def measure(reference: LoadedEncoder, other: LoadedEncoder) -> Equivalence:
    """How near `other`'s vectors are to the reference's, the worst of its modalities.

    Cost: 1,000 sentences each (5 s for all-MiniLM-L6-v2 on 2 cores), 64 pictures each.
    """
    parts = []
    for modality in reference.passport.modalities:
        items = sample_items(modality)
        a, b = reference.encode_unchecked(items), other.encode_unchecked(items)
        parts.append(Equivalence(len(items), worst_cosine(a, b), neighbour_overlap(a, b)))
    return Equivalence(
        rows=sum(part.rows for part in parts),
        worst_cosine=min(part.worst_cosine for part in parts),
        overlap_at_10=min(part.overlap_at_10 for part in parts),
    )
