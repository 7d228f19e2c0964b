"""Kafka's clients: how they are configured, and what their errors mean.

What is no part of a URI comes from a file of ``key=value`` lines, in librdkafka's words: addresses
of certificates, user names, passwords. It is read whenever a client is made, and is kept nowhere.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from ..errors import Unavailable
from .names import CONFIG_VARIABLE

REGISTRY_PREFIX = "schema.registry."
"""What lines for the schema registry's client begin with."""
SECONDS = 10.0
"""How long a broker may take to answer a question."""

_Made = TypeVar("_Made")


class _Quiet(logging.LoggerAdapter):
    """What clients say of themselves, for those who look for it: what matters is raised."""

    def log(self, level: int, *args: Any, **options: Any) -> None:
        super().log(logging.DEBUG, *args, **options)


_LOG = _Quiet(logging.getLogger(__name__))
_DEFAULTS = {"log_level": 4}
_NOTHING: Mapping[str, Any] = {}
_SAID = 100
"""How many of the latest errors are kept, of those that belong to no question."""
_OURS = {
    "acks": "all",
    "enable.idempotence": "true",
    "group.id": "",
    "isolation.level": "read_committed",
    "transactional.id": "",
}
"""Settings that the promises hang on, and the one value that a file may give."""
_PRODUCING = (
    "acks", "batch.", "compression.", "delivery.", "enable.idempotence", "linger.", "message.",
    "partitioner", "queue.buffering.", "request.", "retries", "sticky.", "transaction.",
)  # fmt: skip
"""How the names of settings begin that producers alone have."""
_CONSUMING = (
    "auto.",
    "enable.auto",
    "enable.partition.eof",
    "fetch.",
    "group.",
    "isolation.",
    "max.",
)


class Client:
    """Where brokers are, and how to come in. Made anew for each task.

    Args:
        servers: ``HOST:PORT`` of one or several, with commas between them.
        config: the path of a file of settings; if empty, the one that the environment names.
        place: what messages begin with.
        mistake: what is raised where trying again does not help.
        hints: what is said besides, by the codes of Kafka's errors.
    """

    def __init__(
        self,
        servers: str,
        config: str,
        place: str,
        mistake: type[ValueError],
        hints: Mapping[int, str],
    ) -> None:
        self.place = place
        self.mistake = mistake
        self._hints = hints
        self._servers = servers
        self._path = config or os.environ.get(CONFIG_VARIABLE, "")
        self._said: deque[KafkaError] = deque(maxlen=_SAID)

    def settings(self) -> dict[str, str]:
        """What the file says, without what is the schema registry's.

        Raises:
            ValueError: the ``mistake``: it cannot be read, or says what has to be otherwise.
        """
        return {k: v for k, v in self._file().items() if not k.startswith(REGISTRY_PREFIX)}

    def registry_settings(self) -> dict[str, str]:
        """What the file says of the schema registry."""
        found = self._file().items()
        begin = REGISTRY_PREFIX
        return {k.removeprefix(begin): v for k, v in found if k.startswith(begin)}

    def admin(self) -> AdminClient:
        """A client that asks for topics and makes them."""
        return self._made(AdminClient, _without(self.settings(), _PRODUCING + _CONSUMING), {})

    def consumer(self, defaults: Mapping[str, Any] = _NOTHING, **ours: Any) -> Consumer:
        """A client that reads. ``defaults`` are what the file may say otherwise; ``ours`` are
        settings that it may not, with ``_`` for dots."""
        said = {**defaults, **_without(self.settings(), _PRODUCING)}
        ours = {"group.id": "millstream", "enable.auto.commit": False, **_dotted(ours)}
        return self._made(Consumer, said, ours)

    def producer(
        self, kind: Callable[..., _Made], defaults: Mapping[str, Any], **ours: Any
    ) -> _Made:
        """A client that writes. ``defaults`` are what the file may say otherwise."""
        said = {**defaults, **_without(self.settings(), _CONSUMING)}
        return self._made(kind, said, _dotted(ours))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what Kafka's clients raise in our words."""
        try:
            yield
        except KafkaException as error:
            raise self._explanation(error.args[0]) from error

    def forget(self) -> None:
        """Forget what clients were refused before: they have been let in since."""
        self._said.clear()

    def raise_refusal(self) -> None:
        """Raise it if brokers do not let a client in, which tries on and says nothing.

        Raises:
            Unavailable: it was let in once, and a broker that goes away while they shake hands is
                told in the same words. Who comes anew, and is not let in, is told better.
        """
        if refusals := self._refusals():
            raise Unavailable(str(self._explanation(refusals[-1])))

    def _refusals(self) -> list[KafkaError]:
        return [said for said in self._said if said.code() in _REFUSED]

    def _made(
        self, kind: Callable[..., _Made], said: Mapping[str, Any], ours: Mapping[str, Any]
    ) -> _Made:
        always = {"bootstrap.servers": self._servers, "error_cb": self._said.append}
        try:
            return kind({**_DEFAULTS, **said, **ours, **always}, logger=_LOG)
        except (KafkaException, TypeError) as error:
            what = error.args[0]
            text = _without_values(what.str() if isinstance(what, KafkaError) else what, said)
            raise self.mistake(f"{self.place}: {self._path or 'Kafka'}: {text}") from None

    def _explanation(self, error: KafkaError) -> Exception:
        # A client that is not let in tries on, and the call merely times out.
        refusals = self._refusals()
        if error.code() in _SILENT and refusals:
            error = refusals[-1]
        text = f"{self.place}: {error.str()}"
        if error.code() in _REFUSED:
            where = self._path or f"the file that {CONFIG_VARIABLE} names"
            return self.mistake(f"{text}; see the credentials in {where}")
        if error.code() in _FINAL:
            return self.mistake(f"{text}{self._hints.get(error.code(), '')}")
        return Unavailable(text)

    def _file(self) -> dict[str, str]:
        if not self._path:
            return {}
        try:
            with open(self._path, encoding="utf-8") as file:
                found = _parsed(file.read())
        except _NoSetting as error:
            raise self.mistake(f"{self._path}: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise self.mistake(f"{self.place}: {self._path} cannot be read: {why}") from None
        for name, allowed in {**_OURS, "bootstrap.servers": self._servers}.items():
            if found.pop(name, allowed) != allowed:
                raise self.mistake(f"{self.place}: {self._path} sets {name}; leave it out")
        return found


class _NoSetting(Exception):
    """A line that is not ``key=value``. The message does not repeat it."""


def _parsed(text: str) -> dict[str, str]:
    """The settings of a file of ``key=value`` lines; ``#`` begins a remark."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(("#", "!")):
            name, sign, value = line.partition("=")
            if not sign:
                raise _NoSetting(f"line {number} is not key=value")
            found[name.strip()] = value.strip()
    return found


def _without(settings: Mapping[str, str], beginnings: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if not name.startswith(beginnings)}


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in settings.items()}


def _without_values(text: str, settings: Mapping[str, Any]) -> str:
    """A message without what was set, which may be secret."""
    for value in sorted(map(str, settings.values()), key=len, reverse=True):
        text = text.replace(value, "…") if value else text
    return text


_SILENT = {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}
_REFUSED = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError._SSL,
}
FENCED = {
    KafkaError._FENCED,
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
}
"""Another producer has come with our transactional id, or our transaction took too long."""
UNKNOWN_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
_FINAL = {
    *UNKNOWN_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_CONFIG,
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._INVALID_ARG,
}
"""What trying again does not mend."""
