"""Numbers of keys by their 128-bit hashes, of any number of keys at a time.

Hashes are as good as evenly spread: the first key that begins with some bits is found in a
directory, and the one that is sought lies there or a few places on. That takes a tenth of the time
of a binary search, whose steps each wait for memory.
"""

from __future__ import annotations

import numpy as np

NONE = -1
"""The number of a key that is not there."""

_MOST_BITS = 26


class KeyIndex:
    """Keys, numbered in the order of their hashes.

    Args:
        high: halves of the hashes (uint64), in order of both halves; none is there twice.
        low: the other halves.

    Raises:
        OverflowError: they are more than 4 billion.
    """

    def __init__(self, high: np.ndarray, low: np.ndarray) -> None:
        if len(high) >= 1 << 32:
            raise OverflowError("more keys than the index numbers")
        # One more, behind which nothing is sought.
        self._high = np.append(high, np.uint64(0xFFFF_FFFF_FFFF_FFFF))
        self._low = np.append(low, np.uint64(0xFFFF_FFFF_FFFF_FFFF))
        bits = min(max(len(high), 1).bit_length() + 1, _MOST_BITS)
        self._shift = np.uint64(64 - bits)
        firsts = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._starts = np.searchsorted(high, firsts).astype(np.uint32)

    def __len__(self) -> int:
        return len(self._high) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._high.nbytes + self._low.nbytes + self._starts.nbytes

    def find(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """The number of each key (int64), :data:`NONE` where it is not there."""
        at = self._starts[high >> self._shift].astype(np.int64)
        behind = np.flatnonzero(self._high[at] < high)
        while len(behind):
            at[behind] += 1
            behind = behind[self._high[at[behind]] < high[behind]]
        is_alike = (self._high[at] == high) & (at < len(self))
        is_there = is_alike & (self._low[at] == low)
        astray = np.flatnonzero(is_alike & ~is_there)  # hardly ever: half of a hash is the same
        while len(astray):
            at[astray] += 1
            astray = astray[(self._high[at[astray]] == high[astray]) & (at[astray] < len(self))]
            is_there[astray] = self._low[at[astray]] == low[astray]
            astray = astray[~is_there[astray]]
        return np.where(is_there, at, NONE)
