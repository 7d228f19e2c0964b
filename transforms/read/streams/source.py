"""What a stream is: partitions of records, each in an order that never changes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import pyarrow as pa

from ...carry import SourceState
from ...dead_letters import Attributes


class Carried(Protocol):
    """What messages of a batch carry beside their payloads: keys, headers, times.

    Nobody looks at it for records that are fine: nothing is to be made of it before it is asked.
    """

    @abstractmethod
    def attributes(self, sources: Sequence[str], positions: Sequence[int]) -> list[Attributes]:
        """What some records of the batch carried, as their dead letters tell it."""


class Polled(NamedTuple):
    """Records that have come, perhaps of several partitions, and where each goes on.

    ``batch`` is by ``millstream.schemas.arrow.PAYLOADS``; of each source, rows are in order.
    ``next`` has the first position of each source that has not been given: it may move without a
    record, over positions that hold none. ``cursors`` are what a service wants to be told to go on
    from there, where that is no number; ``receipts`` what it is to be told once all is committed.
    ``duplicates`` counts, by source, records that were read before, and are not given again.
    ``carried`` is what a transport has beside payloads.
    """

    batch: pa.RecordBatch
    next: dict[str, int]
    cursors: Mapping[str, str] | None = None
    receipts: tuple[str, ...] = ()
    duplicates: Mapping[str, int] | None = None
    carried: Carried | None = None


class StreamReader(Protocol):
    """Reads some partitions of a stream. To be closed, by leaving a ``with`` block or otherwise."""

    @abstractmethod
    def poll(self, rows: int, seconds: float) -> Polled | None:
        """What has come: at most about so many rows, after at most so long; ``None`` if nothing.

        Raises:
            SourceError: it cannot be read on as things are.
            Unavailable: the service does not answer.
        """

    @abstractmethod
    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        """All records before these positions, of all sources."""

    @abstractmethod
    def at_end(self) -> set[str]:
        """The sources that have no more records now. A service that does not answer has said
        nothing of the kind."""

    @abstractmethod
    def hold(self, sources: set[str]) -> None:
        """Poll nothing of these sources for now, and of all others again."""

    @abstractmethod
    def discover(self) -> dict[str, int]:
        """Partitions that have been added, with their first positions; they are read from now on.

        Raises:
            SourceError: the stream is not the one that it was.
        """

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class StreamSource(Protocol):
    """A stream that can be read by a few workers. Small and picklable."""

    @abstractmethod
    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        """A reader of these sources from where they stand."""

    @abstractmethod
    def part(self, number: int, parts: int) -> StreamSource:
        """One of so many parts of the stream: a rule says which partitions are its own, those that
        are added later too."""

    @abstractmethod
    def owns(self, source: str) -> bool:
        """Whether a source is of this part of the stream."""

    def committed(self, states: Mapping[str, SourceState]) -> None:
        """Tell those who watch how far behind readers are where partitions stand, once all before
        that is committed. It fails in silence: nothing depends on it."""
        return

    def remember(
        self, before: Mapping[str, SourceState], receipts: Sequence[str]
    ) -> Mapping[str, str]:
        """Write down what a later reader has to know of records that are about to be committed, and
        give, by source, the cursors that are committed with them. It may be called again for the
        same commit.

        Args:
            before: where the commit before stands.
            receipts: of all that is to be committed.

        Raises:
            Overtaken: some of it is committed already.
        """
        return {}

    def acknowledge(self, receipts: Sequence[str]) -> None:
        """Tell the service that records are committed and need not be given again.

        What was not acknowledged comes again, and the reader has to know it: it may fail.
        """
        return
