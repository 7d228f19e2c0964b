"""What became of the letters that a replay has read, written down once all else is committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import pyarrow as pa

from ..letters import Entry, Marks
from ..plan import Token
from ..runs import Replayed, RunStore
from ..write.refusals import refused_letters
from .reading import KnownLetters


class Settling:
    """The end of a replay. All methods may be called again."""

    def __init__(self, store: RunStore, token: Token, replayed: Replayed) -> None:
        self._store = store
        self._token = token
        self._replayed = replayed

    @cached_property
    def _known(self) -> KnownLetters:
        """Not needed once the letters are marked: their files are gone then."""
        return KnownLetters(self._replayed.letters)

    def next_attempt(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """See :class:`~.reading.KnownLetters`."""
        return self._known.next_attempt(batch)

    def mark(self, refused: Iterable[str]) -> None:
        """Mark every letter as ``replayed``, or its next attempt as ``failed``.

        Args:
            refused: files of rows that destinations have refused.
        """
        failed = set(self._replayed.failed)
        for path in refused:
            for batch in refused_letters(path):
                failed.update(batch.column("id").to_pylist())
        Marks(self._store.home).append(self._token.run_id, self._entries(failed))

    def _entries(self, failed: set[str]) -> Iterator[Entry]:
        for letter, attempt in self._known:
            if letter in failed:  # it is there anew
                yield Entry(letter, attempt + 1, "failed")
            else:
                yield Entry(letter, attempt, "replayed")
