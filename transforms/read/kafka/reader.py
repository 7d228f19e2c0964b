"""Reading partitions of a topic, many messages at once.

Partitions are assigned, never subscribed to: there is no rebalance, and nobody else decides who
reads what. Nothing is made for a single message but what confluent-kafka makes of it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from confluent_kafka import KafkaError, Message
from confluent_kafka import TopicPartition as Partition

from ..errors import Unavailable
from .bounds import Topic, TopicState, client_of
from .faults import Faults
from .inputs import KafkaInput
from .polled import Polled, as_columns, by_partition
from .publisher import Publisher

ROWS = 10_000
"""How many messages :meth:`KafkaReader.bounded` reads at once."""
PATIENCE_SECONDS = 60.0
"""How long :meth:`KafkaReader.bounded` waits for the next message."""
LOOK_SECONDS = 1.0
"""How often :meth:`KafkaReader.poll` looks whether the topic is still the same."""
_TICK_SECONDS = 0.1
"""How long a single call may wait: signals are seen between two."""
_MOST_BYTES = 16 << 20
"""How much is gathered at once, about: fewer messages where they are large."""
_MOST_ROWS = 1_000_000
"""How many messages a client can be asked for at once."""
_ROOM = 10_000
"""How many messages are gathered before it is known how large they are."""
_DEFAULTS = {
    "fetch.max.bytes": 16 << 20,
    # A client whose queue is full waits for a whole second by default.
    "fetch.queue.backoff.ms": 10,
    # The end of a partition is told when the broker has waited as long for the next message.
    "fetch.wait.max.ms": 100,
    "queued.max.messages.kbytes": 16 << 10,
}
"""What the file of settings may say otherwise."""


class KafkaReader:
    """A reader of some partitions, to be closed by leaving a ``with`` block.

    Args:
        positions: the offset to begin at, by partition.
        topic_id: the topic that it has to be; if empty, whichever has the name now.

    Raises:
        SourceError: there is no such topic, or it is another one; we are not let in.
        Unavailable: no broker answers.
    """

    def __init__(self, input: KafkaInput, positions: Mapping[int, int], topic_id: str = "") -> None:
        self._input = input
        self._positions: dict[int, int] = {}
        self._room = _ROOM
        self._looked = time.monotonic()
        self._answer: Future[Any] | None = None
        self._failure: tuple[type[Exception], str] | None = None
        self._client = client_of(input)
        self._topic = Topic(input)
        self._publisher = Publisher(input, self._topic)
        with ExitStack() as opened:
            opened.callback(self._topic.close)
            self.topic_id = self._topic.check(topic_id, positions)
            self._consumer = self._client.consumer(
                _DEFAULTS,
                auto_offset_reset="error",
                check_crcs=True,
                enable_auto_offset_store=False,
                enable_partition_eof=True,
                isolation_level=input.isolation,
            )
            opened.pop_all()
        self._faults = Faults(input, self._client, self._topic, self.topic_id)
        self.add(positions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back. What was published goes out first, if the broker answers."""
        self._publisher.wait()
        self._topic.close()
        self._consumer.close()

    @property
    def positions(self) -> dict[int, int]:
        """The offset that is read next, by partition."""
        return dict(self._positions)

    def add(self, positions: Mapping[int, int]) -> None:
        """Read further partitions besides, from these offsets on."""
        self._consumer.incremental_assign(
            [Partition(self._input.topic, p, offset) for p, offset in positions.items()]
        )
        self._positions.update(positions)

    def remove(self, partitions: Iterable[int]) -> None:
        """Read some partitions no more."""
        gone = [p for p in partitions if self._positions.pop(p, None) is not None]
        self._consumer.incremental_unassign(self._named(gone))

    def pause(self, partitions: Iterable[int]) -> None:
        """Let some partitions be for a while."""
        self._consumer.pause(self._named(partitions))

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on with partitions that were paused, exactly where they were."""
        self._consumer.resume(self._named(partitions))

    def poll(self, max_rows: int, seconds: float) -> list[Polled]:
        """What comes, at most ``max_rows`` messages, and what has come when ``seconds`` are over.

        One for each partition of which there is something new: messages, or a ``next`` that has
        moved. Nothing at all if no broker answers: the client goes on trying.

        Raises:
            SourceError: a partition cannot be read on: offsets are gone, or a batch is broken; the
                topic is gone, or is another one; it may not be read any more.
            Unavailable: the broker cannot serve just now, and the client has given up, or is not
                let in any more.
        """
        self._raise_failure()
        with _no_collection():
            polled = self._taken(self._gathered(max_rows, seconds))
        self._look()
        if polled:
            self._make_room(polled)
            self._client.forget()
        else:
            self._raise_failure()
            self._client.raise_refusal()
        return polled

    def bounded(
        self,
        ends: Mapping[int, int],
        max_rows: int = ROWS,
        patience: float = PATIENCE_SECONDS,
    ) -> Iterator[Polled]:
        """All up to the ends, and no message beyond: the last that is given of a partition has its
        end as ``next``. Partitions that have come to their end are removed.

        Args:
            ends: the offset to stop before, of each partition that is read.
            patience: how many seconds the next message is waited for.

        Raises:
            SourceError: as :meth:`poll`.
            Unavailable: nothing comes any more.
        """
        self.remove([p for p, position in self._positions.items() if position >= ends[p]])
        heard = time.monotonic()
        while self._positions:
            polled = self.poll(max_rows, _TICK_SECONDS)
            self.remove([some.partition for some in polled if some.next >= ends[some.partition]])
            for some in polled:
                yield some.upto(ends[some.partition])
            if polled:
                heard = time.monotonic()
            elif time.monotonic() - heard > patience:
                raise self._too_late(ends, patience)
        self.check()

    def check(self) -> None:
        """See whether all that was read until now is of the topic that it began with.

        Raises:
            SourceError: it was deleted, or made again.
            Unavailable: no broker answers.
        """
        self._topic.check(self.topic_id, self._positions)

    def state(self) -> TopicState:
        """What there is of the topic now: partitions that were added too.

        Raises:
            SourceError: it was deleted; we are not let in.
            Unavailable: no broker answers.
        """
        return self._topic.state()

    def caught_up(self) -> set[int]:
        """The partitions that hold no more than was read, as the broker says now; none if it does
        not answer.

        Raises:
            SourceError: we are not let in.
        """
        try:
            highs = self._topic.highs(self._positions)
        except Unavailable:
            return set()
        return {p for p, high in highs.items() if self._positions[p] >= high}

    def publish(self, positions: Mapping[int, int]) -> None:
        """Let those who watch the group know how far we are. Nothing depends on it: if it fails,
        that is logged, and no more."""
        self._publisher.publish(positions)

    def _gathered(self, max_rows: int, seconds: float) -> list[Message]:
        deadline = time.monotonic() + seconds
        most = min(max_rows, self._room, _MOST_ROWS)
        found: list[Message] = []
        while True:
            left = max(0.0, deadline - time.monotonic())
            came = self._consumer.consume(most - len(found), min(left, _TICK_SECONDS))
            found = found + came if found else came
            if len(found) >= most or left <= _TICK_SECONDS:
                return found

    def _make_room(self, polled: list[Polled]) -> None:
        """Have as many messages gathered next as have room if they are as large as these."""
        if rows := sum(some.rows for some in polled):
            size = sum(some.payloads.nbytes for some in polled)
            self._room = max(1, _MOST_BYTES * rows // size)

    def _taken(self, messages: list[Message]) -> list[Polled]:
        errors = list(map(Message.error, messages))
        ends: dict[int, int] = {}
        if any(errors):
            messages, ends = self._without_events(messages, errors)
        rows = by_partition(messages)
        found = []
        for partition in rows | ends:
            position = self._positions.get(partition)
            if position is None:  # removed meanwhile
                continue
            end = ends.get(partition, position)
            polled = as_columns(partition, rows.get(partition, ()), end)
            if polled.rows or polled.next > position:
                self._positions[partition] = polled.next
                found.append(polled)
        return found

    def _without_events(
        self, messages: list[Message], errors: list[KafkaError | None]
    ) -> tuple[list[Message], dict[int, int]]:
        """What came before the first event that is a failure, and the ends that were reached."""
        kept: list[Message] = []
        ends: dict[int, int] = {}
        for message, error in zip(messages, errors, strict=True):
            if error is None:
                kept.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition() or 0] = message.offset() or 0
            elif failure := self._fault(message, error, kept):
                # Not the error itself: it would hold the frames that hold us.
                self._failure = type(failure), str(failure)
                break
        return kept, ends

    def _fault(
        self, message: Message, error: KafkaError, before: list[Message]
    ) -> Exception | None:
        partition = message.partition()
        if partition not in self._positions:
            return None
        offsets = [m.offset() or 0 for m in before if m.partition() == partition]
        position = offsets[-1] + 1 if offsets else self._positions[partition]
        return self._faults.of(message, error, position)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            kind, said = self._failure
            raise kind(said)

    def _look(self) -> None:
        """See now and then whether the topic is still the same, and wait for no answer."""
        if self._answer is None:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._looked = time.monotonic()
                self._answer = self._topic.ask()
        elif self._answer.done():
            answer, self._answer = self._answer, None
            with suppress(Unavailable):
                self._topic.judge(answer, self.topic_id, self._positions)

    def _too_late(self, ends: Mapping[int, int], seconds: float) -> Exception:
        said = ", ".join(f"{p} at {at} of {ends[p]}" for p, at in self._positions.items())
        return Unavailable(
            f"{self._input.place}: nothing has come for {seconds:.0f} seconds; partition {said}"
        )

    def _named(self, partitions: Iterable[int]) -> list[Partition]:
        return [Partition(self._input.topic, partition) for partition in partitions]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Messages are many small objects, and none is garbage yet: looking through them for some takes
    as long as making them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
