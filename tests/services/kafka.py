"""Kafka: one broker that is its own controller (KRaft), fetched from Maven, started, thrown away.

``python -m tests.services.kafka`` fetches it into ``.kafka`` of the checkout. It asks for a
password (SASL) and looks at rights (ACLs), as a real one does. Those who come to its inner address
are asked for nothing and may do everything.
"""

from __future__ import annotations

import base64
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.services import maven
from tests.services.json_rows import value_of
from tests.services.serving import NoServer, free_port, serving

USER = "loader"
PASSWORD = "password-never-to-be-shown"
STRANGER = "stranger"
"""A user who may do nothing but what a test allows."""
PROGRAM = maven.Program("Kafka", "4.1.0", ".kafka", "tests.services.kafka")

_POM = """<project>
<modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies>
<dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
</dependency>
<dependency>
<groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version>
</dependency>
</dependencies>
</project>
"""
_SECONDS = 60
_ROWS = 50_000
_RULES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INNER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,INNER:PLAINTEXT,OUTER:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": f"User:ANONYMOUS;User:{USER}",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "auto.create.topics.enable": "false",
    "num.partitions": "3",
}
_USERS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'user_{USER}="{PASSWORD}" user_{STRANGER}="{PASSWORD}";'
)


@dataclass(frozen=True)
class Kafka:
    """A running broker: see :class:`tests.services.peers.Peer`.

    ``address`` asks for a password, ``inner`` does not. With a ``registry`` (a URL) messages are
    Avro, else JSON.
    """

    address: str
    inner: str
    environment: Mapping[str, str]
    registry: str = ""

    def uri(self, table: str, query: str = "") -> str:
        place = f"kafka://{self.address}/{table}"
        own = f"format=avro&registry={self.registry}" if self.registry else ""
        said = "&".join(filter(None, [query, own]))
        return f"{place}?{said}" if said else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        """Of a compacted topic, what compaction leaves: the last value of each key."""
        values = self._values(table)
        names: set[str] = set()
        parts = []
        with self._decoding() as decoded:
            # Not all at once: rows of Python take far more memory than columns.
            while rows := list(map(decoded, itertools.islice(values, _ROWS))):
                names.update(*rows)
                parts.append(_columns(rows, schema))
        read = pa.Table.from_batches(parts, schema)
        return read.select([name for name in schema.names if name in names]) if parts else read

    def refuse_negative(self, table: str, column: str) -> None:
        raise NotImplementedError("topics have no constraints")

    def interrupt_commit(self) -> tuple[str, str]:
        return (
            "millstream.transforms.write.kafka.transaction:TransactionalProducer",
            "commit_transaction",
        )

    def messages(self, topic: str, *, isolation: str = "read_committed") -> list[Any]:
        """All messages, partition after partition."""
        from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self.inner,
                "group.id": "tests",
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
            }
        )
        try:
            found = consumer.list_topics(topic, timeout=_SECONDS).topics[topic]
            if found.error:
                raise KafkaException(found.error)
            consumer.assign([TopicPartition(topic, n, 0) for n in found.partitions])
            messages: dict[int | None, list[Any]] = {n: [] for n in found.partitions}
            ended: set[int | None] = set()
            while len(ended) < len(messages):
                # Whoever asks for many waits for many.
                for message in consumer.consume(1, timeout=1) + consumer.consume(10_000, timeout=0):
                    error = message.error()
                    if error is None:
                        messages[message.partition()].append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition())
                    else:
                        raise KafkaException(error)
            return [message for partition in messages.values() for message in partition]
        finally:
            consumer.close()

    def admin(self) -> Any:
        """A client that may do everything."""
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.inner, "log_level": 4})

    def make(self, topic: str, partitions: int = 1, **settings: str) -> None:
        """Make a topic. ``settings`` have ``_`` where Kafka has dots."""
        from confluent_kafka.admin import NewTopic

        said = {name.replace("_", "."): value for name, value in settings.items()}
        admin = self.admin()
        (made,) = admin.create_topics([NewTopic(topic, partitions, config=said)]).values()
        made.result(_SECONDS)

    def settings(self, topic: str) -> dict[str, str]:
        """The configuration of a topic."""
        from confluent_kafka.admin import ConfigResource, ResourceType

        admin = self.admin()
        (found,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
        return {name: entry.value for name, entry in found.result(_SECONDS).items()}

    def _values(self, topic: str) -> Iterator[bytes]:
        messages = self.messages(topic)
        if "compact" in self.settings(topic)["cleanup.policy"]:
            messages = list({message.key(): message for message in messages}.values())
        return (value for message in messages if (value := message.value()) is not None)

    @contextmanager
    def _decoding(self) -> Iterator[Callable[[bytes], dict[str, Any]]]:
        """What makes a row of a message's value."""
        if not self.registry:
            # Numbers keep all digits; a whole number may be a float's, and of that -0 is not 0.
            yield partial(json.loads, parse_float=Decimal, parse_int=Decimal)
            return
        from confluent_kafka.schema_registry import SchemaRegistryClient, avro

        with SchemaRegistryClient({"url": self.registry}) as client:
            kind: Any = avro.AvroDeserializer
            yield partial(kind(client), ctx=None)


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    if find_spec("confluent_kafka") is None:
        return "confluent_kafka is not installed; pip install -e '.[dev]'"
    return PROGRAM.why_not()


def fetch() -> None:
    """Fetch the broker's jars.

    Raises:
        NoProgram: they cannot be had.
    """
    with PROGRAM.fetching() as folder:
        (folder / "pom.xml").write_text(_POM.format(version=PROGRAM.version), "utf-8")
        copied = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        maven.maven(["dependency:copy-dependencies", *copied], folder)


@contextmanager
def running() -> Iterator[Kafka]:
    """A broker without topics, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    with breakable() as broker:
        yield broker.peer


class Broker:
    """A broker that can be stopped, killed and started again, with all that it holds."""

    def __init__(self, folder: Path) -> None:
        self._settings = folder / "server.properties"
        self.data = folder / "data"
        """What it holds: a folder for each partition, named ``TOPIC-PARTITION``."""
        inner, outer, controller = (f"127.0.0.1:{free_port()}" for _ in range(3))
        written = {**_RULES, **_addresses(inner, outer, controller), "log.dirs": str(self.data)}
        self._settings.write_text(_properties(written), "utf-8")
        client = folder / "client.properties"
        client.write_text(_properties(credentials(USER, PASSWORD)), "utf-8")
        client.chmod(0o600)
        self.peer = Kafka(outer, inner, {"MILLSTREAM_KAFKA_CONFIG": str(client)})
        self._running = ExitStack()

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            NoServer: it does not start.
        """
        command = [*_java("-Xmx512m", *maven.QUICK), "kafka.Kafka", str(self._settings)]
        port = int(self.peer.inner.split(":")[1])
        self._running.enter_context(serving(command, port))
        _wait(self.peer)

    def end(self) -> None:
        """End it in good order."""
        self._running.close()

    def kill(self) -> None:
        """Have it die at once."""
        self._signal(signal.SIGKILL)
        self.end()

    @contextmanager
    def other_passwords(self) -> Iterator[None]:
        """Have it be started anew with other passwords, for as long as the block lasts."""
        said = self._settings.read_text("utf-8")
        self.end()
        self._settings.write_text(said.replace(PASSWORD, f"other-{PASSWORD}"), "utf-8")
        self.start()
        try:
            yield
        finally:
            self.end()
            self._settings.write_text(said, "utf-8")
            self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have it hold its connections and answer nothing, for as long as the block lasts."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        import psutil

        settings = str(self._settings)
        (process,) = (p for p in psutil.Process().children() if settings in p.cmdline())
        process.send_signal(number)


@contextmanager
def breakable() -> Iterator[Broker]:
    """A broker of one's own, running when the block begins.

    Raises:
        NoServer: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="millstream-kafka-") as path:
        broker = Broker(Path(path))
        _format(broker._settings)
        try:
            broker.start()
            yield broker
        finally:
            broker.end()


def credentials(user: str, password: str) -> dict[str, str]:
    """What a client has to be told to come in as a user."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": password,
    }


def _addresses(inner: str, outer: str, controller: str) -> dict[str, str]:
    return {
        "controller.quorum.voters": f"1@{controller}",
        "listeners": f"INNER://{inner},OUTER://{outer},CONTROLLER://{controller}",
        "advertised.listeners": f"INNER://{inner},OUTER://{outer}",
        "listener.name.outer.plain.sasl.jaas.config": _USERS,
    }


def _properties(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _java(*options: str) -> list[str]:
    return ["java", *options, "-cp", f"{PROGRAM.home}/*"]


def _format(settings: Path) -> None:
    """Prepare the broker's folder."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    tool = [*_java(*maven.QUICK), "kafka.tools.StorageTool"]
    # With "=", since an id may begin with a dash.
    command = [*tool, "format", f"--cluster-id={cluster}", "-c", str(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise NoServer(f"Kafka cannot format its storage: {done.stderr[-2000:]}")


def _wait(peer: Kafka) -> None:
    """Until the broker has taken up its work: its port answers earlier."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            if peer.admin().list_topics(timeout=5).brokers:
                return
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise NoServer(f"Kafka does not answer: {error}") from error


def _columns(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pa.array([value_of(row.get(f.name), f.type) for row in rows], f.type) for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(schema))


if __name__ == "__main__":
    sys.exit(maven.main(PROGRAM, fetch))
