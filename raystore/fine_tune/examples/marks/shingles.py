"""Texts as sketches of their shingles, and the pairs of texts that share most of them.

A text is normalised (NFKC, case folded, everything but letters, digits and '_' one space), and every five characters in a row
are a shingle. Two texts whose sets of shingles have a Jaccard similarity of .8 or more are near-duplicates: a typo, another case
or sign in a sentence, a changed word in a paragraph. Of a text only the 128 smallest hashes are kept (Broder 1997, "On the
resemblance and containment of documents": a bottom-k sketch): exact for texts of up to about 130 characters, beyond an estimate
with a standard error of .035 at .8.

Which pairs are looked at follows from prefix filtering (Chaudhuri, Ganti and Kaushik 2006; Bayardo et al. 2007): sets that share
at least four fifths share four of their rarest fifth and three more. It loses no pair.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

THRESHOLD = 0.8
WIDTH = 5  # characters of a shingle
SKETCH = 128
_BITS = 52  # of a shingle's hash; the other 12 number the text in its block
_BLOCK = 4_096
_BUCKETS = 2**22  # in which shingles are counted: rarity may be a guess, as long as every text sees the same
_IMAGE = 37  # bits of a shingle in the join: 5 of rarity, 32 of its hash
_SHARED = 4  # of their rarest fifth and three more, near-duplicates share so many: 300 times fewer pairs than share one
_PAIRS = 2**20  # looked at at once: 200 MB
_VERIFIED = 2**13  # pairs whose sketches are laid side by side at once: 17 MB
_NO_WORD = re.compile(r"[\W]+")


def normalised(text: str) -> str:
    """What two texts have to share to be the same; a text without letters and digits is itself."""
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip() or text.strip()


@dataclass(frozen=True)
class TextMarks:
    """`keys` (n,) hash the normalised texts; sketch i is `sketches[offsets[i] : offsets[i + 1]]`, ascending."""

    keys: Hashes
    sketches: Hashes
    offsets: Rows

    def joined(self, others: Sequence[TextMarks]) -> TextMarks:
        """Those of these texts, and behind them of the others'."""
        parts = (self, *others)
        sizes = [np.diff(part.offsets) for part in parts]
        return TextMarks(
            keys=np.concatenate([part.keys for part in parts]),
            sketches=np.concatenate([part.sketches for part in parts]),
            offsets=np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes])),
        )

    def near(self, rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
        """(len(rows),) which of `rows` have a near-duplicate among `others`.

        Cost: 30 ns a shingle, and 2 us for each pair that shares some rare ones.
        """
        found = np.zeros(len(rows), np.bool_)
        if not len(rows) or not len(others):
            return found
        both = np.concatenate([rows, others])
        row, image = self._prefixes(both)
        mine = row < len(rows)
        for one, other, shared in _pairs(row[mine], image[mine], row[~mine], image[~mine], found):
            a, b = both[one], both[other]
            least, most = np.minimum(self._sizes(a), self._sizes(b)), np.maximum(self._sizes(a), self._sizes(b))
            near = (least >= THRESHOLD * most - 1e-9) & (shared >= np.minimum(_SHARED, np.ceil(THRESHOLD * most - 1e-9)))
            found[one[near][self._similar(a[near], b[near])]] = True
        return found

    def _sizes(self, rows: Rows) -> Rows:
        return self.offsets[rows + 1] - self.offsets[rows]

    def _prefixes(self, rows: Rows) -> tuple[Rows, Hashes]:
        """(place in `rows`, shingle) of the rarest fifth and some more of each row's, without those of one row alone."""
        sizes = self._sizes(rows)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        places = np.repeat(np.arange(len(rows)), sizes)
        within = np.arange(starts[-1]) - starts[places]
        hashes = self.sketches[self.offsets[rows][places] + within]
        buckets = min(_BUCKETS, 1 << int(2 * len(hashes)).bit_length())
        bucket = (hashes % np.uint64(buckets)).astype(np.int64)
        often = np.bincount(bucket, minlength=buckets)
        rarity = np.frexp(often.astype(np.float64))[1].astype(np.uint64)  # 1 for once, 2 for twice and thrice, ..
        low = hashes & np.uint64(2**32 - 1)
        packed = (places.astype(np.uint64) << np.uint64(_IMAGE)) | (rarity[bucket] << np.uint64(32)) | low
        del hashes, bucket, low
        packed.sort()  # by row, in each the rarest first
        image = packed & np.uint64(2**_IMAGE - 1)
        shared = np.ceil(THRESHOLD * sizes - 1e-9).astype(np.int64)
        length = sizes - np.maximum(shared - _SHARED, 0)
        kept = (within < length[places]) & ((image >> np.uint64(32)) > 1)
        return places[kept], image[kept]

    def _similar(self, a: Rows, b: Rows) -> npt.NDArray[np.bool_]:
        """Whether the Jaccard similarity of each pair, as their sketches tell it, is the threshold or more."""
        found = [
            self._jaccard(a[i : i + _VERIFIED], b[i : i + _VERIFIED]) >= THRESHOLD for i in range(0, len(a), _VERIFIED)
        ]
        return np.concatenate(found) if found else np.zeros(0, np.bool_)

    def _jaccard(self, a: Rows, b: Rows) -> npt.NDArray[np.float64]:
        union = np.concatenate([self._matrix(a), self._matrix(b)], axis=1)
        union.sort(axis=1)
        real = union != _NONE
        again = np.zeros(union.shape, np.bool_)
        again[:, 1:] = (union[:, 1:] == union[:, :-1]) & real[:, 1:]
        distinct = np.cumsum(real & ~again, axis=1)
        size = np.minimum(distinct[:, -1], SKETCH)
        shared = (again & (distinct <= SKETCH)).sum(axis=1)
        return np.asarray(shared / np.maximum(size, 1))

    def _matrix(self, rows: Rows) -> Hashes:
        """(n, SKETCH) the rows' sketches, filled up with a number that no hash is."""
        within = np.arange(SKETCH)
        sizes = self._sizes(rows)
        places = np.minimum(self.offsets[rows][:, None] + within, len(self.sketches) - 1)
        return np.where(within < sizes[:, None], self.sketches[places], _NONE)


_NONE = np.uint64(2**64 - 1)


def _pairs(
    row: Rows, image: Hashes, other_row: Rows, other_image: Hashes, found: npt.NDArray[np.bool_]
) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Pairs of places that share a rare shingle, and how many they share, without rows that `found` knows by then.

    `row` ascends, and the shingles of one row stay together, so each pair comes once.
    """
    order = np.argsort(other_image, kind="stable")
    held, theirs = other_image[order], other_row[order]
    first, last = np.searchsorted(held, image, side="left"), np.searchsorted(held, image, side="right")
    ends = np.cumsum(last - first)
    start = 0
    while start < len(row):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, side="right")))
        stop = int(np.searchsorted(row, row[stop - 1], side="right"))
        part = start + np.flatnonzero(~found[row[start:stop]])
        counts = last[part] - first[part]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        one, other = np.repeat(row[part], counts), theirs[np.repeat(first[part], counts) + within]
        pairs, shared = np.unique((one.astype(np.uint64) << np.uint64(32)) | other.astype(np.uint64), return_counts=True)
        yield (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64), shared
        start = stop


class TextMarker:
    """Collects the marks of texts block by block."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._sketches: list[Hashes] = []
        self._sizes: list[Rows] = []

    def add(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), _BLOCK):
            plain = [normalised(text) for text in texts[start : start + _BLOCK]]
            self._keys += [key_of(text.encode("utf-8", "surrogatepass")) for text in plain]
            sketches, sizes = _sketched(plain)
            self._sketches.append(sketches)
            self._sizes.append(sizes)

    def finish(self) -> TextMarks:
        sizes = np.concatenate([np.zeros(1, np.int64), *self._sizes])
        return TextMarks(
            keys=np.array(self._keys, np.uint64),
            sketches=np.concatenate([np.empty(0, np.uint64), *self._sketches]),
            offsets=np.cumsum(sizes),
        )


def key_of(content: bytes) -> int:
    """64 bits of a content's hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _sketched(texts: Sequence[str]) -> tuple[Hashes, Rows]:
    """The sketches of a block of normalised texts, and how many hashes each has."""
    padded = [f" {text} ".ljust(WIDTH, "\0") for text in texts]
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], np.int64)
    ends = np.cumsum(lengths)
    n = len(letters) - WIDTH + 1  # every place a shingle may begin at; those that reach into the next text are no shingles
    hashes = letters[:n].copy()
    for step in range(1, WIDTH):
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes += letters[step : n + step]
    _mix(hashes)
    hashes >>= np.uint64(64 - _BITS)
    texts_of = np.repeat(np.arange(len(padded), dtype=np.int32), lengths)[:n]
    begins = np.ones(len(letters), np.bool_)
    begins[(ends[:, None] - np.arange(1, WIDTH)).reshape(-1)] = False
    # Four times as many as a sketch holds: the smallest of a long text are surely among them, unless it repeats itself a lot.
    windows = lengths - WIDTH + 1
    limit = (np.minimum(1.0, 4 * SKETCH / windows) * 2.0**_BITS).astype(np.uint64)
    kept = begins[:n] & (hashes < np.repeat(limit, lengths)[:n])
    sketches, sizes = _smallest(hashes[kept], texts_of[kept], len(texts))
    short = (sizes < SKETCH) & (windows > 4 * SKETCH)
    if short.any():
        kept |= begins[:n] & short[texts_of]
        sketches, sizes = _smallest(hashes[kept], texts_of[kept], len(texts))
    return sketches, sizes


def _smallest(hashes: Hashes, texts_of: npt.NDArray[np.int32], n_texts: int) -> tuple[Hashes, Rows]:
    packed = (texts_of.astype(np.uint64) << np.uint64(_BITS)) | hashes
    packed.sort()  # np.unique puts whole numbers into a hash table, eight times slower
    packed = packed[np.concatenate([packed[:1] == packed[:1], packed[1:] != packed[:-1]])]
    text = (packed >> np.uint64(_BITS)).astype(np.int64)
    sizes = np.bincount(text, minlength=n_texts)
    within = np.arange(len(packed)) - (np.cumsum(sizes) - sizes)[text]
    return packed[within < SKETCH] & np.uint64(2**_BITS - 1), np.minimum(sizes, SKETCH)


def _mix(values: Hashes) -> None:
    """Every bit of each value into every bit of it. Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
