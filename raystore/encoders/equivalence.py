"""Whether two ways to run an encoder put out the same vectors: on real sentences and generated pictures, not on trust.

The result decides, not the arithmetic inside: OpenVINO computes in bfloat16 where the processor has it and still
stays within 0.99997 of torch's float32 on all-MiniLM-L6-v2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raystore.encoders.exports import Equivalence
from raystore.encoders.items import Item
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.passport import Modality
from raystore.vectors import Matrix

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


def sample_rows(reference: LoadedEncoder) -> Mapping[Modality, Matrix]:
    """What the reference makes of the sample of each modality it takes; 5 s for all-MiniLM-L6-v2 in torch on 2 cores."""
    return {modality: reference.encode_unchecked(sample_items(modality)) for modality in reference.passport.modalities}


def measure(reference: Mapping[Modality, Matrix], other: LoadedEncoder) -> Equivalence:
    """How near `other`'s vectors of the samples are to the reference's (`sample_rows`), the worst of its modalities."""
    parts = [Equivalence.of(rows, other.encode_unchecked(sample_items(m))) for m, rows in reference.items()]
    return Equivalence(
        rows=sum(part.rows for part in parts),
        worst_cosine=min(part.worst_cosine for part in parts),
        overlap_at_10=min(part.overlap_at_10 for part in parts),
    )
