"""One shard as it is being read: what has been fetched of it, and where it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..errors import SourceError, Unavailable
from .client import DONE, Answer, Expired, Kinesis, Throttled

_EMPTY_SECONDS = 0.25
"""After how long a shard that had nothing is asked again: it may be asked five times a second."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_LOG = logging.getLogger(__name__)


class OpenShard:
    """A shard, read from a cursor on, one answer ahead.

    Attributes:
        next: the position of the record that is read next.
        cursor: what it goes on from, behind all that was taken.
        failed_since: since when the service does not answer, by ``time.monotonic``.
    """

    def __init__(self, client: Kinesis, source: str, shard: str, next: int, cursor: str) -> None:
        self.source = source
        self.shard = shard
        self.next = next
        self.cursor = cursor
        self.failed_since: float | None = None
        self.fault: Unavailable | None = None
        self._client = client
        self._iterator: str | None = None
        self._future: Future[Answer] | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._caught_up = False
        self._is_closed = False  # there is no next iterator
        self._waiting: Sequence[Mapping[str, Any]] = ()

    @property
    def is_done(self) -> bool:
        """Whether it is closed, and all of it has been taken."""
        return self.cursor == DONE

    @property
    def is_at_end(self) -> bool:
        """Whether the service has just said that there is no more."""
        return self.is_done or (self._caught_up and not self.is_ready)

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`take` gives something: records, or that it is done."""
        return bool(self._waiting) or (self._is_closed and not self.is_done)

    def fetch(self, threads: ThreadPoolExecutor) -> Future[Answer] | None:
        """Have the next answer be fetched, unless there is one, or it is too early; what is on its
        way."""
        if self._future is None:
            if self.is_done or self.is_ready or time.monotonic() < self._not_before:
                return None
            self._future = threads.submit(self._fetched)
        return self._future

    def look(self) -> None:
        """See what has come.

        Raises:
            SourceError: the shard cannot be read.
        """
        if self._future is None or not self._future.done():
            return
        future, self._future = self._future, None
        try:
            answer = future.result()
        except SourceError:
            raise
        except Expired:
            self._iterator = None
        except Unavailable as error:
            self._failed(error)
        else:
            self._came(answer)

    def take(self) -> Sequence[Mapping[str, Any]]:
        """The records that have come."""
        records, self._waiting = self._waiting, ()
        if records:
            self.next += len(records)
            self.cursor = records[-1]["SequenceNumber"]
        if self._is_closed:
            self.cursor = DONE
        return records

    def _fetched(self) -> Answer:
        if self._iterator is None:
            self._iterator = self._client.iterator(self.shard, self.cursor)
        return self._client.records(self._iterator)

    def _came(self, answer: Answer) -> None:
        self._pause, self.failed_since, self.fault = 0.0, None, None
        self._waiting = answer.records
        self._iterator = answer.next
        self._is_closed = answer.next is None
        self._caught_up = answer.behind_ms == 0 and not answer.records
        if not answer.records:
            self._not_before = time.monotonic() + _EMPTY_SECONDS

    def _failed(self, error: Unavailable) -> None:
        self._caught_up = False
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._not_before = time.monotonic() + self._pause
        if not isinstance(error, Throttled):  # that is an answer
            self.fault = error
            self.failed_since = self.failed_since or time.monotonic()
        _LOG.debug("%s is asked again in %.1f s: %s", self.source, self._pause, error)
