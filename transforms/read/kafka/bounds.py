"""What a topic holds, and where in it an input begins and ends."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from ....schemas.problems import did_you_mean
from ...kafka.client import UNKNOWN_TOPIC, Client
from ..errors import SourceError
from .inputs import KafkaInput, Offsets, Since

QUESTION_SECONDS = 4.0
"""How long a broker may take to answer."""
_HINTS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "; allow Read and Describe on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "; allow Read on the group",
}
_ISOLATION = {
    "read_committed": IsolationLevel.READ_COMMITTED,
    "read_uncommitted": IsolationLevel.READ_UNCOMMITTED,
}


_OUTDATED = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
}
"""What a client says that has not heard yet of partitions that were added or have moved."""


@dataclass(frozen=True)
class TopicState:
    """What there is of a topic.

    Attributes:
        topic_id: a topic that is deleted and made again has another one.
        partitions: of each partition the offset of the first message, and the offset behind the
            last that can be read now: a reader of committed messages reads none that lie behind a
            transaction which is still open.
    """

    topic_id: str
    partitions: Mapping[int, tuple[int, int]]


def topic_state(input: KafkaInput) -> TopicState:
    """What there is of an input's topic now.

    Raises:
        SourceError: there is no such topic, or we are not let in.
        Unavailable: no broker answers.
    """
    with closing(Topic(input)) as topic:
        return topic.state()


def starts(input: KafkaInput, state: TopicState) -> dict[int, int]:
    """Of each partition the offset of the first message that is to be read.

    Raises:
        SourceError: it lies before the first that there is, or behind the last; or a partition is
            named that there is not.
        Unavailable: no broker answers.
    """
    lows = {partition: low for partition, (low, _) in state.partitions.items()}
    match input.start:
        case "earliest":
            return lows
        case "latest":
            return _highs(state)
        case Since(ms):
            return _since(input, ms, state)
        case "committed":
            with closing(Topic(input)) as topic:
                said = topic.committed(state.partitions)
        case Offsets(pairs):
            said = dict(pairs)
            _check_partitions(state, "start", said)
    _check(input, state, said)
    return {**lows, **said}


def ends(input: KafkaInput, state: TopicState) -> dict[int, int]:
    """Of each partition the offset behind the last message that is to be read.

    Without ``until``, and of a time that no message has reached yet, that is what there is now.

    Raises:
        SourceError: a partition is named that there is not.
        Unavailable: no broker answers.
    """
    match input.until:
        case Since(ms):
            return _since(input, ms, state)
        case Offsets(pairs):
            _check_partitions(state, "until", dict(pairs))
            return {**_highs(state), **dict(pairs)}
    return _highs(state)


class Topic:
    """An input's topic, to be asked. One client for all questions, to be closed in the end.

    All methods raise ``SourceError`` where there is no such topic or we are not let in, and
    ``Unavailable`` where no broker answers within ``QUESTION_SECONDS``.
    """

    def __init__(self, input: KafkaInput) -> None:
        self._input = input
        self._client = client_of(input)
        self._introduced = False

    def close(self) -> None:
        """Give the client back. It must not be left to the collector of garbage, which may run in
        the client's own thread: there it cannot be closed, and the process is aborted."""
        self.__dict__.pop("_admin", None)

    def state(self) -> TopicState:
        """What there is of it now."""
        with self._asking():
            topic_id, partitions = self._described(self.ask())
            lows = self._listed(partitions, OffsetSpec.earliest())
            highs = self._listed(partitions, OffsetSpec.latest())
        return TopicState(topic_id, {p: (lows[p], highs[p]) for p in partitions})

    def check(self, topic_id: str, partitions: Collection[int] = ()) -> str:
        """See whether it is still the same topic, and has the partitions; gives its id.

        Args:
            topic_id: what it has to be; if empty, any will do.

        Raises:
            SourceError: it is another one.
        """
        return self.judge(self.ask(), topic_id, partitions)

    def ask(self) -> Future[Any]:
        """What :meth:`judge` needs. It is not waited for."""
        name = self._input.topic
        asked = TopicCollection([name])
        return self._admin.describe_topics(asked, request_timeout=QUESTION_SECONDS)[name]

    def judge(self, answer: Future[Any], topic_id: str, partitions: Collection[int]) -> str:
        """:meth:`check`, by an answer."""
        with self._asking():
            found, held = self._described(answer, was_there=bool(topic_id))
        if topic_id and found != topic_id:
            raise SourceError(
                f"{self._input.place}: the topic was deleted and made again since it was read: its "
                "offsets mean other messages now. Read it as a new input, from its start"
            )
        if missing := sorted(set(partitions).difference(held)):
            raise SourceError(f"{self._input.place}: there is no partition {missing[0]}")
        return found

    def lows(self, partitions: Collection[int]) -> dict[int, int]:
        """The first offsets that there are."""
        with self._asking():
            return self._listed(partitions, OffsetSpec.earliest())

    def highs(self, partitions: Collection[int], *, decided: bool = True) -> dict[int, int]:
        """The offsets behind the last message that the input can reach now.

        Args:
            decided: what lies behind a transaction that is still open cannot be reached, if the
                input leaves such messages out.
        """
        with self._asking():
            return self._listed(partitions, OffsetSpec.latest(), decided=decided)

    def since(self, ms: int, state: TopicState) -> dict[int, int]:
        """The first offsets whose messages are not older than a time; the end, where none is."""
        with self._asking():
            found = self._listed(state.partitions, OffsetSpec.for_timestamp(ms))
        return {
            partition: min(found[partition], high) if found[partition] >= 0 else high
            for partition, (_, high) in state.partitions.items()
        }

    def committed(self, partitions: Collection[int]) -> dict[int, int]:
        """What the input's group has committed, of those partitions of which it has."""
        group = self._input.group
        wanted = [TopicPartition(self._input.topic, partition) for partition in partitions]
        asked = [ConsumerGroupTopicPartitions(group, wanted)]
        with self._asking():
            self._introduce()
            answer = self._admin.list_consumer_group_offsets(
                asked, request_timeout=QUESTION_SECONDS
            )
            found = answer[group].result().topic_partitions
        return {p.partition: p.offset for p in found if p.offset >= 0}

    def publish(self, positions: Mapping[int, int]) -> Future[Any]:
        """Have the input's group hold positions. Nobody waits for it; whoever has the group's
        partitions assigned prevents it.

        What it gives has ``topic_partitions`` as its result, of which each may have an ``error``.
        """
        group, topic = self._input.group, self._input.topic
        said = [TopicPartition(topic, partition, at) for partition, at in positions.items()]
        return self._admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, said)], request_timeout=QUESTION_SECONDS
        )[group]

    @cached_property
    def _admin(self) -> AdminClient:
        return self._client.admin()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._client.explained():
            try:
                yield
            except KafkaException:
                self._admin.poll(0)  # which tells why nobody answers
                raise

    def _described(self, answer: Future[Any], *, was_there: bool = False) -> tuple[str, list[int]]:
        """Its id and its partitions."""
        try:
            found = answer.result()
        except KafkaException as error:
            if error.args[0].code() in UNKNOWN_TOPIC:
                raise SourceError(self._missing(was_there)) from error
            raise
        self._introduced = True
        self._client.forget()
        return str(found.topic_id), sorted(partition.id for partition in found.partitions)

    def _introduce(self) -> None:
        """A client whose first question is about offsets may take seconds to ask it."""
        if not self._introduced:
            self._described(self.ask())

    def _missing(self, was_there: bool) -> str:
        if was_there:
            return f"{self._input.place}: the topic was deleted while it was read"
        names = self._admin.list_topics(timeout=QUESTION_SECONDS).topics
        hint = did_you_mean(self._input.topic, names)
        return f"{self._input.place}: there is no topic {self._input.topic!r}{hint}"

    def _listed(
        self, partitions: Collection[int], spec: Any, *, decided: bool = True
    ) -> dict[int, int]:
        topic, isolation = self._input.topic, self._input.isolation
        asked = {TopicPartition(topic, partition): spec for partition in partitions}
        level = _ISOLATION[isolation if decided else "read_uncommitted"]

        self._introduce()

        def ask() -> dict[int, int]:
            answers = self._admin.list_offsets(
                asked, isolation_level=level, request_timeout=QUESTION_SECONDS
            )
            found = {p.partition: answer.result().offset for p, answer in answers.items()}
            # That is all that the client says when the broker does not answer in time.
            if OFFSET_INVALID in found.values():
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no offsets in time"))
            return found

        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in _OUTDATED:
                raise
            self._admin.list_topics(topic, timeout=QUESTION_SECONDS)
            return ask()


def client_of(input: KafkaInput) -> Client:
    """What makes clients that read an input."""
    return Client(input.servers, input.config, input.place, SourceError, _HINTS)


def gone(input: KafkaInput, partition: int, offset: int, low: int) -> SourceError:
    """What to raise where messages were deleted before they were read."""
    return SourceError(
        f"{input.place}: {low - offset} offsets of partition {partition} are gone ({offset} to "
        f"{low - 1}): Kafka deleted them before they were read (retention.ms, retention.bytes). "
        "With start=earliest reading goes on behind the gap"
    )


def beyond(input: KafkaInput, partition: int, offset: int, high: int) -> SourceError:
    """What to raise where a partition ends before what is to be read."""
    return SourceError(
        f"{input.place}: offset {offset} of partition {partition} is not there: its last is "
        f"{high - 1}. The broker lost messages, or the offset was another topic's"
    )


def _check(input: KafkaInput, state: TopicState, said: Mapping[int, int]) -> None:
    """See whether offsets to begin at are there."""
    behind = {p: offset for p, offset in said.items() if offset > state.partitions[p][1]}
    ends: dict[int, int] = {}
    if behind:
        with closing(Topic(input)) as topic:
            # What lies behind an open transaction is there, though it cannot be read yet.
            ends = topic.highs(behind, decided=False)
    for partition, offset in said.items():
        low, high = state.partitions[partition]
        if offset < low:
            raise gone(input, partition, offset, low)
        if offset > ends.get(partition, high):
            raise beyond(input, partition, offset, ends[partition])


def _since(input: KafkaInput, ms: int, state: TopicState) -> dict[int, int]:
    with closing(Topic(input)) as topic:
        return topic.since(ms, state)


def _check_partitions(state: TopicState, option: str, said: Mapping[int, int]) -> None:
    if unknown := sorted(set(said).difference(state.partitions)):
        raise SourceError(
            f"{option}={Offsets(tuple(sorted(said.items())))}: there is no partition {unknown[0]}; "
            f"they are numbered from 0 to {max(state.partitions)}"
        )


def _highs(state: TopicState) -> dict[int, int]:
    return {partition: high for partition, (_, high) in state.partitions.items()}
