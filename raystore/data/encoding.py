"""The vectors of a batch of a job's rows: each model runs once, over the rows that lack a vector of its encoders.

A row that one of the encoders has no vector for is a bad row, whatever the others said of it: it is written with all the vectors
it is to get, or not at all. Holds content only while it encodes it, and names rows by their numbers alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from raystore.data.job import EmbedPlan, JobEncoder
from raystore.data.job_rows import JobRow
from raystore.data.rows import unusable
from raystore.data.set_aside import BadRow
from raystore.errors import JobFailed
from raystore.layout import FP12
from raystore.vectors import as_unit_rows

_BROKEN_FROM_ROWS = 8  # an encoder that fails on as many rows, and on no other, is broken itself


class JobEncoders:
    """The encoders of a job in memory, by fingerprint. One object under two fingerprints encodes a row once for both."""

    def __init__(self, encoders: Mapping[str, JobEncoder], plan: EmbedPlan) -> None:
        self._plan = plan
        groups: dict[int, list[str]] = {}
        for fingerprint in plan.fingerprints:
            groups.setdefault(id(encoders[fingerprint]), []).append(fingerprint)
        self._groups = [(encoders[fingerprints[0]], fingerprints) for fingerprints in groups.values()]
        self.max_chars = min(encoder.max_chars for encoder, _ in self._groups)

    def encode(self, rows: Sequence[JobRow]) -> list[BadRow]:
        """The rows that have no vector of an encoder they lack one of; each other row is given all of its own.

        Raises:
            JobFailed: an encoder fails on whatever it is given.
        """
        good, bad = list(rows), []
        for encoder, fingerprints in self._groups:
            asked = [row for row in good if any(each in row.lacks for each in fingerprints)]
            failed = self._encode(encoder, fingerprints, asked) if asked else []
            bad += failed
            numbers = {number for number, _, _ in failed}
            good = [row for row in good if row.number not in numbers]
        return bad

    def ran_on(self, rows: Sequence[JobRow], written: int) -> dict[str, int]:
        """How many of the rows that were written each backend and device encoded."""
        counted = Counter(
            by
            for row in rows
            for by in {f"{e.backend} on {e.device}" for e, fps in self._groups if any(each in row.lacks for each in fps)}
        )
        return {by: min(n, written) for by, n in counted.items()} if written else {}

    def _encode(self, encoder: JobEncoder, fingerprints: Sequence[str], rows: Sequence[JobRow]) -> list[BadRow]:
        """An encoder says itself which items it cannot encode. Where it fails on a batch, each row is tried alone."""
        try:
            return self._encode_batch(encoder, fingerprints, rows)
        except (ValueError, RuntimeError):
            pass
        # Of several encoders the one that failed is named, by its fingerprint: it may have no other name here.
        which = "the encoder" if len(self._groups) == 1 else f"encoder {fingerprints[0][:FP12]}"
        bad: list[BadRow] = []
        failures: Counter[str] = Counter()
        for row in rows:
            try:
                bad += self._encode_batch(encoder, fingerprints, [row])
            except (ValueError, RuntimeError) as error:  # the encoder's own words may quote the content
                name = type(error).__name__
                bad.append((row.number, row.id, f"{which} failed on it ({name})"))
                failures[name] += 1
        if len(rows) >= _BROKEN_FROM_ROWS and failures.total() == len(rows):
            raise JobFailed(
                job=f"embedding into '{self._plan.collection}'",
                reason=f"{which} failed on each of {len(rows)} rows ({', '.join(failures)}), so it is not the rows",
                advice="None of them was set aside. Mend the encoder ('raystore encoder verify') and run the same call again.",
            )
        return bad

    def _encode_batch(self, encoder: JobEncoder, fingerprints: Sequence[str], rows: Sequence[JobRow]) -> list[BadRow]:
        encoded = encoder.encode_each([row.content for row in rows])
        vectors = as_unit_rows(encoded.vectors, encoder.dim, "encode")
        for vector, place in zip(vectors, encoded.places.tolist(), strict=True):
            rows[place].vectors |= {each: vector for each in fingerprints if each in rows[place].lacks}
        modality = self._plan.modality
        return [(rows[i].number, rows[i].id, unusable(modality, said)) for i, said in encoded.problems.items()]
