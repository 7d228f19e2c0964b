"""Judging records where they are read, by the one worker that reads the whole stream."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from ..carry import NewKeys
from .judging import Committed, judged, keys_of, known_committed, spans_of
from .keys import Horizon
from .slices import FACTS

LOOK_AT = 64
"""Batches after which it is looked whether keys can be forgotten."""


class Repeated(RuntimeError):
    """Records have come a second time, and what was made of them the first time is lost."""


class _Memory:
    """All keys that a run of a pipeline has kept so far, or has found committed."""

    def __init__(self, horizon: Horizon, committed: Committed) -> None:
        self.name = uuid.uuid4().hex
        self.lock = threading.Lock()
        self.known = known_committed(horizon, committed, None)
        self.ends: dict[str, int] = {}
        self.batches = 0

    def go_on(self, batch: pa.RecordBatch) -> None:
        """See that a batch comes after those that were judged before.

        Raises:
            Repeated: it does not.
        """
        for source, (first, end) in spans_of(batch).items():
            if first < self.ends.get(source, first):
                raise Repeated(
                    f"{source}: positions from {first} on have been read again by a run that "
                    f"has read to {self.ends[source]}: go on by the same command"
                )
            self.ends[source] = end
        self.batches += 1


_MEMORIES: dict[str, _Memory] = {}
"""By the name of the run: a runner may make several workers of one step in a process."""
_MAKING = threading.Lock()


class JudgeHere(beam.DoFn):
    """Batches to records; beside them duplicates, and facts.

    For runners that do nothing twice: of a bundle that fails, the whole pipeline does, and goes on
    from what is committed. This is seen to, not trusted. Records that come again are refused, since
    the memory holds their own keys. And keys tell by whose memory they were kept: those of two are
    never committed by one run, for the second would not have known what the first had kept and not
    committed yet.
    """

    def __init__(self, horizon: Horizon, committed: Committed, run: str) -> None:
        self._horizon = horizon
        self._committed = committed
        self._run = run

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        memory = self._memory()
        keys, rows = keys_of(batch, self._horizon)
        with memory.lock:
            memory.go_on(batch)
            repeated, new = memory.known.judge(keys)
            memory.known.add(new)
            if memory.batches % LOOK_AT == 0 and (carry := self._committed()) is not None:
                memory.known.expire(self._horizon.bound(carry.watermark))
        if new.rows:
            yield TaggedOutput(FACTS, NewKeys(new.to_bytes(), memory.name))
        yield from judged(batch, rows[repeated])

    def _memory(self) -> _Memory:
        with _MAKING:
            if self._run not in _MEMORIES:
                _MEMORIES[self._run] = _Memory(self._horizon, self._committed)
            return _MEMORIES[self._run]
