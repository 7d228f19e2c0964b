"""Topics: whether they are there, what they take, and making them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, NewTopic, ResourceType

from ...kafka.client import SECONDS, UNKNOWN_TOPIC, Client
from ..errors import DestinationError
from .messages import Limits

_UNREADABLE = {"max.message.bytes": "1000000", "message.timestamp.after.max.ms": "3600000"}
"""What is taken for a topic's configuration where it may not be read: Kafka's defaults."""
_FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}
_YEARS_MS = 1 << 53
_QUESTION_SECONDS = 4.0
"""How long a question may take where several have to be answered within ``SECONDS``."""

HINTS = {
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "; allow Write and Describe on transactional "
    "ids that begin with 'millstream', or on that of transactional_id=…",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "; allow Write, Describe and DescribeConfigs on topics "
    "that are written, Read besides on the topic of tokens, and Create where they are to be made",
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "; set transaction.timeout.ms to no more than the "
    "broker's transaction.max.timeout.ms",
    **dict.fromkeys(UNKNOWN_TOPIC, "; make the topic, or allow it to be made"),
}
"""What is said besides where trying again does not help."""


@dataclass(frozen=True)
class Topic:
    """A topic that is to be written to.

    Attributes:
        compacted: of the messages with one key, only the last is of interest.
        partitions: how many, where it is to be made; the broker's default if there is none.
        kept: nothing may vanish from it with time.
    """

    name: str
    compacted: bool = False
    partitions: int | None = None
    kept: bool = False

    def new(self) -> NewTopic:
        """How it is made. What is not said here is the broker's default."""
        settings = dict(_FOREVER) if self.kept else {}
        settings["cleanup.policy"] = "compact" if self.compacted else "delete"
        return NewTopic(self.name, self.partitions or -1, config=settings)

    def check(self, found: Found) -> None:
        """See whether the topic that is there will do.

        Raises:
            DestinationError: what is written to it would vanish, or is never cleaned up.
        """
        policy = found.settings.get("cleanup.policy")
        if policy is None:  # its configuration may not be read
            return
        compacts = "compact" in policy
        if compacts and not self.compacted:
            raise DestinationError(
                f"topic {self.name} has cleanup.policy={policy}: of rows with one key all but the "
                "last would vanish; write to it with mode=upsert, or to another topic"
            )
        if self.compacted and (not compacts or (self.kept and "delete" in policy)):
            raise DestinationError(
                f"topic {self.name} has cleanup.policy={policy}; set it to compact, so that the "
                "last message of each key stays"
            )


@dataclass(frozen=True)
class Found:
    """A topic that is there, and what we may do with it, if the broker says so."""

    settings: Mapping[str, str]
    operations: frozenset[AclOperation]

    @property
    def message_bytes(self) -> int:
        return int(self.settings["max.message.bytes"])

    def limits(self, now: int) -> Limits:
        """What it takes, and keeps for a while; ``now`` is in milliseconds since the epoch."""
        before, after, kept = (
            int(self.settings.get(name, -1))
            for name in (
                "message.timestamp.before.max.ms",
                "message.timestamp.after.max.ms",
                "retention.ms",
            )
        )
        if "delete" not in self.settings.get("cleanup.policy", "delete"):
            kept = -1
        oldest = min((limit for limit in (before, kept) if limit >= 0), default=_YEARS_MS)
        newest = after if after >= 0 else _YEARS_MS
        # A message's zero would mean now.
        return Limits(self.message_bytes, max(1, now - oldest), now + newest, now)


def find(admin: AdminClient, topics: Iterable[Topic]) -> dict[str, Found]:
    """Those of the topics that are there, by name.

    Raises:
        KafkaException: the broker does not answer, or does not let us ask.
        DestinationError: one will not do.
    """
    by_name = {topic.name: topic for topic in topics}
    asked = admin.describe_topics(
        TopicCollection(list(by_name)),
        include_authorized_operations=True,
        request_timeout=_QUESTION_SECONDS,
    )
    operations = {}
    for name, answer in asked.items():
        if (described := _answer(admin, answer, UNKNOWN_TOPIC)) is not None:
            operations[name] = frozenset(described.authorized_operations or ())
    settings = _settings(admin, operations) if operations else {}
    found = {name: Found(settings.get(name, _UNREADABLE), operations[name]) for name in operations}
    for name, topic in found.items():
        by_name[name].check(topic)
    return found


def make(admin: AdminClient, topics: Iterable[Topic], *, only_ask: bool = False) -> None:
    """Make topics; one that somebody else has just made will do.

    Args:
        only_ask: see whether they could be made.

    Raises:
        KafkaException: one cannot be made.
    """
    wanted = [topic.new() for topic in topics]
    if not wanted:
        return
    # No longer than a question when it is one.
    seconds = _QUESTION_SECONDS if only_ask else SECONDS
    made = admin.create_topics(
        wanted, operation_timeout=seconds, request_timeout=seconds, validate_only=only_ask
    )
    for answer in made.values():
        _answer(admin, answer, {KafkaError.TOPIC_ALREADY_EXISTS})


def ensure(client: Client, topics: Iterable[Topic]) -> dict[str, Found]:
    """The topics, those that are not there made.

    Raises:
        KafkaException, DestinationError: as :func:`find` and :func:`make`.
    """
    wanted = list(topics)
    admin = client.admin()
    found = find(admin, wanted)
    missing = [topic for topic in wanted if topic.name not in found]
    if missing:
        make(admin, missing)
        found.update(_settled(admin, missing))
    return found


def _settled(admin: AdminClient, topics: list[Topic]) -> dict[str, Found]:
    """New topics, once the broker that is asked has heard of them."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = find(admin, topics)
        if len(found) == len(topics):
            return found
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "new topics are not seen yet"))
        time.sleep(0.1)


def _settings(admin: AdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    unreadable = {KafkaError.TOPIC_AUTHORIZATION_FAILED, *UNKNOWN_TOPIC}
    found = {}
    for resource, answer in admin.describe_configs(
        asked, request_timeout=_QUESTION_SECONDS
    ).items():
        if (entries := _answer(admin, answer, unreadable)) is not None:
            found[resource.name] = {name: entry.value for name, entry in entries.items()}
    return found


def broker_setting(admin: AdminClient, name: str) -> str | None:
    """A setting of one of the brokers; ``None`` if it may not be read.

    Raises:
        KafkaException: the broker does not answer.
    """
    (broker, *_) = admin.describe_cluster(request_timeout=_QUESTION_SECONDS).result().nodes
    asked = [ConfigResource(ResourceType.BROKER, broker.id_string)]
    (answer,) = admin.describe_configs(asked, request_timeout=_QUESTION_SECONDS).values()
    entries = _answer(admin, answer, {KafkaError.CLUSTER_AUTHORIZATION_FAILED})
    entry = (entries or {}).get(name)
    return entry.value if entry else None


def _answer(admin: AdminClient, answer: Any, expected: Iterable[int]) -> Any:
    """What a future gives; ``None`` if it fails as expected."""
    try:
        return answer.result()
    except KafkaException as error:
        admin.poll(0)  # which tells why nobody answers
        if error.args[0].code() in expected:
            return None
        raise
