"""An index that finds the names at most one typing mistake from a piece of text, without a full scan.

One mistake leaves the first or the second half of a name unchanged, unless it swaps the two letters in the
middle. So each name is entered under the hashes of its halves and of the whole, and a piece of text is looked
up under the halves of every name it could be. All hashes of all pieces of a text come from one pass of numpy
over its characters.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

SHORTEST, LONGEST, WORDS = 6, 64, 8  # characters and words of an entered name
_CHUNK = 20_000  # names hashed at once
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_MIX = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)
_FIRST, _SECOND, _WHOLE = (np.uint64(n * 0xA0761D6478BD642F % 2**64) for n in (1, 2, 3))
_LENGTH = np.uint64(0xE7037ED1A0B428DB)
_DIFFERENCES = np.array([[-1], [0], [1]])


class Hashed:
    """A text with the hash of every substring available at once.

    A hash is the sum of mixed characters times powers of a base, modulo 2**64.
    """

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        self.values = (codes + np.uint64(1)) * _MIX[0]
        self.values ^= self.values >> np.uint64(29)
        self.values *= _MIX[1]
        size = 1 << max(8, len(text).bit_length())
        self._powers, self._inverses = _powers(_BASE, size), _powers(_INVERSE, size)
        self._sums = np.zeros(len(text) + 1, np.uint64)
        np.cumsum(self.values * self._powers[: len(text)], out=self._sums[1:])

    def of(self, start: Places, end: Places) -> Hashes:
        """Return the hashes of [start, end), the same for the same characters at any position."""
        found: Hashes = self._sums[end]
        found -= self._sums[start]
        found *= self._inverses[start]
        return found

    def swapped(self, start: Places, middle: Places, end: Places) -> Hashes:
        """Return the hashes of [start, end) with the characters on both sides of `middle` swapped."""
        change = self.values[middle] - self.values[middle - 1]
        before = middle - 1 - start
        found: Hashes = self.of(start, end) + change * (self._powers[before] - self._powers[before + 1])
        return found


@cache
def _powers(base: int, count: int) -> Hashes:
    """Return base**0, base**1, ... modulo 2**64.

    It is called with powers of two only, so that few results are cached.
    """
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    np.multiply.accumulate(factors, out=factors)
    return factors


def _key(hashes: Hashes, length: Places, part: np.uint64) -> Hashes:
    """Return the key of a part of a name of a given length."""
    return _finished(hashes + (length.astype(np.uint64) * _LENGTH + part))


def _finished(mixed: Hashes) -> Hashes:
    """Mix hashes so that every bit depends on all."""
    mixed = mixed * _MIX[2]
    mixed ^= mixed >> np.uint64(31)
    return mixed


class TypoIndex:
    """An index of distinct names, in flat arrays.

    It takes 36 bytes per name, the name's characters, and a filter of up to 32 bytes per name.

    Args:
        names: each of `SHORTEST` to `LONGEST` characters.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        self._bytes = b"".join(encoded)
        self._offsets = np.zeros(len(names) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(names)), out=self._offsets[1:])
        del encoded
        keys = np.concatenate(
            [np.zeros(0, np.uint64), *(_entered(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK))]
        )
        order = np.argsort(keys)
        self._keys = keys[order]
        self._owners = (order // 3).astype(np.int32)
        bits = max(10, (8 * len(keys)).bit_length())
        self._shift = np.uint64(64 - min(bits, 25))
        self._filter = np.zeros(1 << min(bits, 25), np.bool_)
        self._filter[(keys >> self._shift).view(np.int64)] = True

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return len(self._bytes) + sum(
            array.nbytes for array in (self._offsets, self._keys, self._owners, self._filter)
        )

    def name(self, place: int) -> str:
        """Return the name at an index of the list that the index was made from."""
        return self._bytes[self._offsets[place] : self._offsets[place + 1]].decode("utf-8", "surrogatepass")

    def near(self, hashed: Hashed, starts: Places, ends: Places) -> Iterator[tuple[int, int]]:
        """Yield pieces of a text with names that share a half with them; the other half is not compared.

        Args:
            hashed: the text.
            starts: start of each piece.
            ends: end of each piece.

        Yields:
            Number of the piece, index of the name; some twice.
        """
        keys = _looked_up(hashed, starts, ends)
        hits = np.flatnonzero(self._filter[(keys >> self._shift).view(np.int64)])
        if not len(hits):
            return
        wanted = keys[hits]
        first = np.searchsorted(self._keys, wanted, "left")
        last = np.searchsorted(self._keys, wanted, "right")
        for hit, low, high in zip(hits.tolist(), first.tolist(), last.tolist(), strict=True):
            for place in self._owners[low:high].tolist():
                yield hit % len(starts), place


def _entered(names: Sequence[str]) -> Hashes:
    """Return three keys per name: first half, second half, whole."""
    hashed = Hashed("".join(names))
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    middles = starts + lengths // 2
    parts = (
        _key(hashed.of(starts, middles), lengths, _FIRST),
        _key(hashed.of(middles, ends), lengths, _SECOND),
        _key(hashed.of(starts, ends), lengths, _WHOLE),
    )
    return np.stack(parts, axis=1).ravel()


def _looked_up(hashed: Hashed, starts: Places, ends: Places) -> Hashes:
    """Return seven keys per piece.

    They are the halves of a name one shorter, as long and one longer, and the whole with its middle swapped.
    """
    own = ends - starts
    lengths = own + _DIFFERENCES
    middles = lengths >> 1
    first = hashed.of(np.broadcast_to(starts, lengths.shape), starts + middles)
    second = hashed.of(ends - lengths + middles, np.broadcast_to(ends, lengths.shape))
    whole = hashed.swapped(starts, starts + (own >> 1), ends)
    salted = lengths.astype(np.uint64) * _LENGTH
    mixed = np.concatenate(
        [
            (first + (salted + _FIRST)).ravel(),
            (second + (salted + _SECOND)).ravel(),
            whole + (salted[1] + _WHOLE),
        ]
    )
    return _finished(mixed)
