"""A topic of Kafka: rows and token are one transaction of its producer.

``kafka://HOST:PORT[,HOST:PORT…]/TOPIC?mode=…&format=json|avro``. What else clients have to know,
passwords above all, stands in a file of librdkafka's settings: ``config=FILE``, or the environment
variable ``MILLSTREAM_KAFKA_CONFIG``. Further options:

- ``registry=URL``: with ``format=avro``, the schema registry; its credentials are in the
  environment variable ``SCHEMA_REGISTRY_BASIC_AUTH`` or in the file, as ``schema.registry.…``.
- ``partitions=N``: of a topic that is made; all else is the broker's default.
- ``tokens=TOPIC``: the topic of tokens.
- ``transactional_id=ID``: instead of one of the topic and the run. Whoever comes with the same ID
  ends what the other one is at.
- ``headers=identity``: each message says its run, source and position. It takes half as long again.

Readers must read committed messages only (``isolation.level=read_committed``).

**Append** brings a message for each row, with the contract's key, if there is one. **Upsert** goes
to a compacted topic: a message for the latest row of each key, without a value (a tombstone) if the
row is marked as deleted. A topic cannot be asked what it holds: of two runs, the one that is
committed later stands. Rows with a null in their key have no place there and are refused, as are
rows larger than the topic's ``max.message.bytes``, whatever compression would make of them.

A message's time stamp is the row's event time; if there is none, or the topic would not take it, or
would delete it at once (``retention.ms``), it is the time of the load.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import numpy as np
from confluent_kafka.admin import AclOperation

from ....schemas.arrow import SOURCE
from ....schemas.problems import list_names
from ... import storage
from ...kafka.addresses import checked_url, is_topic, parse_address
from ...kafka.client import Client
from ...read.ahead import read_ahead
from ..destination import Commit
from ..errors import DestinationError, Taken, Unavailable
from ..latest import winners
from ..refusals import refuse
from ..tables import (
    Held,
    Load,
    Mode,
    Options,
    Refused,
    TableDestination,
    held_by,
    naming,
    parse_options,
)
from .avro import avro_messages, check_schemas
from .messages import Columns, Limits, Packed, json_messages, pack
from .subjects import Subjects
from .tokens import (
    PARTITION,
    TOKENS,
    Undecided,
    find_token,
    forget_tokens,
    token_key,
    tokens_before,
    tokens_topic,
)
from .topics import HINTS, Found, Topic, ensure, find, make
from .transaction import Fenced, Transaction, end_transaction, timeout_ms, transaction

OPTIONS = (
    "format", "registry", "config", "partitions", "tokens", "transactional_id", "headers",
)  # fmt: skip
_VALUES = {"format": ("json", "avro"), "headers": ("none", "identity")}
_LONGEST = 240
"""How long a topic's name may be: Kafka allows 249 characters, and states have a suffix."""
_ASK_SECONDS = 2.0
"""How often it is looked whether somebody else has committed."""


@dataclass(frozen=True)
class KafkaDestination(TableDestination):
    """A topic of the cluster that ``servers`` belong to."""

    servers: str = ""

    modes: ClassVar[tuple[Mode, ...]] = ("append", "upsert")
    refuses: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"kafka://{self.servers}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        client = self._client()
        with client.explained():
            timeout = timeout_ms(client)
            try:
                self._write(client, commit, loads, timeout)
            except Fenced as error:
                self._wait_for_other(client, commit.token.run_id, timeout, error)

    def held(self, run_id: str) -> Held | None:
        client = self._client()
        with client.explained():
            if not find(client.admin(), [tokens_topic(self._tokens)]):
                return None
            try:
                return self._held(client, run_id)
            except Undecided:
                # Whoever was about to commit it is dead, or as good as dead.
                end_transaction(client, self._transactional_id(run_id), self._tokens)
                return self._held(client, run_id)

    def examine(self, load: Load) -> None:
        client = self._client()
        if self._format == "json":
            with self._fitting():
                json_messages(load.schema, load.table.key)
        with client.explained():
            admin = client.admin()
            topics = [self._topic(load), tokens_topic(self._tokens)]
            found = find(admin, topics)
            make(admin, [topic for topic in topics if topic.name not in found], only_ask=True)
        for name, needed in ((load.name, _WRITES), (self._tokens, _READS | _WRITES)):
            if name in found:
                self._check_rights(name, found[name], needed)
        if self._format == "avro":
            with self._fitting(), self._registry(client) as registry:
                check_schemas(load, registry)

    def old_tokens(self, before: float) -> list[str]:
        client = self._client()
        with client.explained():
            if not find(client.admin(), [tokens_topic(self._tokens)]):
                return []
            return tokens_before(client, self._tokens, self.target, before)

    def forget(self, before: float, keep: Sequence[str]) -> int:
        gone = sorted(set(self.old_tokens(before)).difference(keep))
        client = self._client()
        with client.explained():
            forget_tokens(client, self._tokens, self.target, gone)
        return len(gone)

    def _write(self, client: Client, commit: Commit, loads: Sequence[Load], timeout: int) -> None:
        topics = [self._topic(load) for load in loads]
        found = ensure(client, [*topics, tokens_topic(self._tokens)])
        columns = [self._columns(client, load, commit.token.run_id) for load in loads]
        least = min(found[topic.name].message_bytes for topic in topics)
        run_id = commit.token.run_id
        own = self._transactional_id(run_id)
        with transaction(client, own, timeout, least, self._tokens) as writing:
            # Not before: whatever an earlier attempt was at is decided now.
            if self._held(client, run_id):
                raise Taken
            refused = Refused("", 0)
            for load, how in zip(loads, columns, strict=True):
                refused = _send(writing, commit, load, how, found[load.name])
            token = held_by(commit, loads, refused).to_json()
            writing.commit(self._tokens, PARTITION, token_key(self.target, run_id), token)

    def _wait_for_other(self, client: Client, run_id: str, timeout: int, error: Fenced) -> NoReturn:
        """Another process does the same as this one did: it is done within its transaction's time,
        or it has died. Whoever began anew at once would end what the other is at.

        Raises:
            Taken: it is done.
            Unavailable: it has died.
        """
        deadline = time.monotonic() + timeout / 1000
        while time.monotonic() < deadline:
            with suppress(Undecided):
                if self._held(client, run_id):
                    raise Taken from error
            time.sleep(_ASK_SECONDS)
        raise Unavailable(f"{self.place}: another process took over, and did not end") from error

    def _transactional_id(self, run_id: str) -> str:
        """One for each token: whoever comes with it later ends what an earlier one is at."""
        own = self.options.own.get("transactional_id")
        return own or f"millstream/{token_key(self.target, run_id).decode()}"

    def _held(self, client: Client, run_id: str) -> Held | None:
        return find_token(client, self._tokens, self.target, run_id)

    def _client(self) -> Client:
        config = self.options.own.get("config", "")
        return Client(self.servers, config, self.place, DestinationError, HINTS)

    def _topic(self, load: Load) -> Topic:
        partitions = self.options.own.get("partitions")
        return Topic(
            load.name,
            compacted=load.mode == "upsert",
            partitions=int(partitions) if partitions else None,
            kept=load.part == "states",
        )

    def _columns(self, client: Client, load: Load, run_id: str) -> Columns:
        with self._fitting():
            if self._format == "avro":
                with self._registry(client) as registry:
                    key, value = avro_messages(load, registry)
            else:
                key, value = json_messages(load.schema, load.table.key)
        required = [field.name for field in load.table.fields if field.required]
        return Columns(
            key,
            value,
            tuple(dict.fromkeys([*required, *load.key])),
            load.table.event_time,
            load.deleted,
            run_id if self._has_headers and load.table.has_identity else "",
        )

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Say where it is that a column has no form."""
        try:
            yield
        except DestinationError:
            raise
        except (TypeError, ValueError) as error:
            raise DestinationError(f"{self.place}: {error}") from None

    def _check_rights(self, topic: str, found: Found, needed: frozenset[AclOperation]) -> None:
        missing = needed - found.operations if found.operations else ()
        if missing:
            names = " and ".join(sorted(right.name.capitalize() for right in missing))
            raise DestinationError(
                f"{self.place}: Kafka does not let us write here; allow {names} on topic {topic}"
            )

    def _registry(self, client: Client) -> Subjects:
        url = self.options.own.get("registry", "")
        return Subjects(url, client.registry_settings(), DestinationError)

    @property
    def _format(self) -> str:
        return self.options.own.get("format", "json")

    @property
    def _tokens(self) -> str:
        return self.options.own.get("tokens", TOKENS)

    @property
    def _has_headers(self) -> bool:
        return self.options.own.get("headers") == "identity"


_WRITES = frozenset((AclOperation.WRITE,))
_READS = frozenset((AclOperation.READ,))


def _send(
    writing: Transaction, commit: Commit, load: Load, columns: Columns, found: Found
) -> Refused:
    """Send a load's rows; those that cannot be sent are written down."""
    limits = found.limits(round(time.time() * 1000))
    if columns.run_id:
        load = _identified(load)
    refused: list[tuple[int, str]] = []
    without: Sequence[int] | np.ndarray = ()
    if load.mode == "upsert":
        # What is refused competes with no other row: it has to be known before.
        refused = [row for packed in _packed(load, columns, limits) for row in packed.refused]
        without = _not_sent(load, [number for number, _ in refused])
    for packed in read_ahead(_packed(load, columns, limits, without)):
        writing.send(load.name, packed.messages)
        refused += packed.refused
    return refuse(commit, load, [n for n, _ in refused], [why for _, why in refused])


def _packed(
    load: Load, columns: Columns, limits: Limits, without: Sequence[int] | np.ndarray = ()
) -> Iterator[Packed]:
    """A load's rows as messages; refused rows by their numbers in the load, if none is left out."""
    before = 0
    for batch in load.batches(without=without):
        for packed in pack(batch, columns, limits):
            yield packed._replace(refused=[(before + n, why) for n, why in packed.refused])
        before += batch.num_rows


def _identified(load: Load) -> Load:
    """The load with the columns that say where a row is from."""
    if SOURCE in load.schema.names:
        return load
    return replace(load, table=load.table.ordered())


def _not_sent(load: Load, refused: Sequence[int]) -> np.ndarray:
    """The numbers of the rows that are refused, or are not the latest of their key."""
    names = dict.fromkeys((*load.key, *load.order))
    table = replace(load.table, fields=tuple(map(load.table.field, names)))
    batches = replace(load, table=table).batches(without=refused)
    # A deletion stands like any other row: it is sent too.
    stands = winners(batches, load.key, load.order).standing()
    sent = np.ones(load.rows, bool)
    sent[np.asarray(refused, np.int64)] = False
    sent[sent] = stands
    return np.flatnonzero(~sent)


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> KafkaDestination:
    """The destination of ``kafka://HOST:PORT[,HOST:PORT…]/TOPIC?mode=…``.

    Raises:
        DestinationError: no broker or no topic is named, an option cannot be used, or a package is
            missing that ``format=avro`` needs.
    """
    address = parse_address(scheme, rest, _LONGEST, DestinationError)
    with naming(scheme):
        options = _options(address.query)
    place = address.place(scheme)
    uri = options.at(place)
    return KafkaDestination(uri, name, place, address.topic, options, state, address.servers)


def _options(query: str) -> Options:
    options = parse_options(query, KafkaDestination.modes, OPTIONS)
    if options.partition_by:
        raise DestinationError("a topic is not laid out by columns: leave partition_by out")
    own = dict(options.own)
    for option, values in _VALUES.items():
        if own.get(option, values[0]) not in values:
            raise DestinationError(f"{option}={own[option]}: expected {list_names(values)}")
    partitions = own.get("partitions", "1")
    if not partitions.isdecimal() or int(partitions) < 1:
        raise DestinationError(f"partitions={partitions}: expected a number from 1 on")
    if not is_topic(own.get("tokens", TOKENS), _LONGEST):
        raise DestinationError(f"tokens={own['tokens']}: that is no topic's name")
    if "config" in own:
        own["config"] = storage.absolute(own["config"])
    if own.get("registry"):
        checked_url(own["registry"], DestinationError)
    return replace(options, own=own)
