"""A Google Pub/Sub of our own: the emulator of the Google Cloud CLI, in memory.

It has no rights and no quotas. It is found where the CLI is installed, or where Debian's package
``google-cloud-cli-pubsub-emulator`` puts it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.services import json_rows
from tests.services.serving import free_port, serving

PROJECT = "millstream-tests"
STATES = "__states"

_PACKAGE = "google-cloud-cli-pubsub-emulator"
_JARS = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
_SECONDS = 30
_REQUEST = 1000
_EMPTY = 3
"""Pulls in a row without a message, after which there are none: the emulator hands out late."""


@dataclass(frozen=True)
class PubSub:
    """A running emulator: see :class:`tests.services.peers.Peer`.

    Messages that were pulled once are kept: they are not there a second time.
    """

    environment: Mapping[str, str]
    _pulled: dict[str, list[Any]] = field(default_factory=dict)

    def uri(self, table: str, query: str = "") -> str:
        """Topics have to be there before anything is published, and so have subscriptions."""
        for topic in (table, f"{table}{STATES}"):
            self.make(topic)
        place = f"pubsub://{PROJECT}/{table}"
        return f"{place}?{query}" if query else place

    def read(self, table: str, schema: pa.Schema) -> pa.Table:
        return json_rows.table_of((message.data for message in self.messages(table)), schema)

    def read_distinct(self, table: str, schema: pa.Schema) -> pa.Table:
        """The same as a reader has it who drops messages whose id was there before."""
        distinct = {found.attributes["id"]: found.data for found in self.messages(table)}
        return json_rows.table_of(distinct.values(), schema)

    def refuse_negative(self, table: str, column: str) -> None:
        raise NotImplementedError("topics have no constraints")

    def interrupt_commit(self) -> tuple[str, str]:
        return "millstream.transforms.write.pubsub.client:Client", "send"

    def make(self, topic: str, *, ordered: bool = False) -> None:
        """Make a topic with a subscription, if it is not there."""
        import google.cloud.pubsub_v1 as pubsub_v1  # pyright: ignore[reportMissingImports]

        if topic in self._pulled:
            return
        with pubsub_v1.PublisherClient() as publisher:
            publisher.create_topic(name=publisher.topic_path(PROJECT, topic))
        with pubsub_v1.SubscriberClient() as subscriber:
            asked = {
                "name": subscriber.subscription_path(PROJECT, topic),
                "topic": subscriber.topic_path(PROJECT, topic),
                "enable_message_ordering": ordered,
            }
            subscriber.create_subscription(request=asked)
        self._pulled[topic] = []

    def publish(self, topic: str, payloads: Sequence[bytes], key: str = "", **said: str) -> None:
        """Publish messages in their order, with an ordering key and attributes."""
        import google.cloud.pubsub_v1 as pubsub_v1  # pyright: ignore[reportMissingImports]
        from google.pubsub_v1 import (  # pyright: ignore[reportMissingImports]
            PublisherClient,
            PublishRequest,
            PubsubMessage,
        )

        make, request = PubsubMessage.pb(), PublishRequest.pb()
        path = f"projects/{PROJECT}/topics/{topic}"
        with pubsub_v1.PublisherClient() as publisher:
            for start in range(0, len(payloads), _REQUEST):
                some = [
                    make(data=data, ordering_key=key, attributes=said)
                    for data in payloads[start : start + _REQUEST]
                ]
                asked = PublishRequest.wrap(request(topic=path, messages=some))
                PublisherClient.publish(publisher, request=asked, timeout=_SECONDS)

    def messages(self, topic: str) -> list[Any]:
        """All messages of a topic so far."""
        found = self._pulled[topic]
        with self._subscriber() as subscriber, warnings.catch_warnings():
            # It is deprecated to ask so: a service under load may say that there are none.
            warnings.simplefilter("ignore", DeprecationWarning)
            path = subscriber.subscription_path(PROJECT, topic)
            empty = 0
            while empty < _EMPTY:
                asked = {"subscription": path, "max_messages": 1000, "return_immediately": True}
                answer = subscriber.pull(request=asked, timeout=_SECONDS)
                pulled = type(answer).pb(answer).received_messages  # quicker than their wrappers
                empty = 0 if pulled else empty + 1
                if pulled:
                    found += [received.message for received in pulled]
                    ids = [received.ack_id for received in pulled]
                    subscriber.acknowledge(subscription=path, ack_ids=ids)
        return found

    def _subscriber(self) -> Any:
        """A client that takes messages of any size: for the emulator it has gRPC's 4 MB."""
        import google.cloud.pubsub_v1 as pubsub_v1  # pyright: ignore[reportMissingImports]
        import grpc  # pyright: ignore[reportMissingImports]
        from google.pubsub_v1.services.subscriber.transports import (  # pyright: ignore[reportMissingImports]
            SubscriberGrpcTransport,
        )

        address = self.environment["PUBSUB_EMULATOR_HOST"]
        options = [("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(address, options=options)
        return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


def why_not() -> str:
    """Why it cannot be started here, and what to do; empty if it can."""
    if not _has_client():
        return "google-cloud-pubsub is not installed; pip install -e '.[gcp]'"
    if shutil.which("java") is None:
        return "Java is not installed"
    if _jar() is None:
        return f"the Pub/Sub emulator is not there; apt-get install {_PACKAGE}"
    return ""


@contextmanager
def running() -> Iterator[PubSub]:
    """An emulator without topics, for as long as the block lasts.

    Raises:
        NoServer: it does not start.
    """
    port = free_port()
    with serving(_command(port), port):
        yield PubSub({"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{port}"})


class Breakable:
    """An emulator that can be stopped and started. It forgets all that it held."""

    def __init__(self) -> None:
        self._port = free_port()
        self._running = ExitStack()
        self.environment = {"PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self._port}"}

    def start(self) -> PubSub:
        """Start it; nothing is in it.

        Raises:
            NoServer: it does not start.
        """
        self._running.enter_context(serving(_command(self._port), self._port))
        return PubSub(self.environment)

    def stop(self) -> None:
        """End it; it may be ended already."""
        self._running.close()


def _command(port: int) -> list[str]:
    return ["java", "-Xmx2g", "-jar", str(_jar()), "--host=127.0.0.1", f"--port={port}"]


def _has_client() -> bool:
    try:
        return find_spec("google.cloud.pubsub_v1") is not None
    except ModuleNotFoundError:  # google, or google.cloud
        return False


def _jar() -> Path | None:
    """The emulator, of the Cloud CLI or of the package."""
    gcloud = shutil.which("gcloud")
    root = Path(os.path.realpath(gcloud)).parents[1] if gcloud else None
    found = [*root.glob(_JARS)] if root else []
    return next((path for path in (*found, *_packaged()) if path.exists()), None)


def _packaged() -> list[Path]:
    dpkg = shutil.which("dpkg")
    if dpkg is None:
        return []
    listed = subprocess.run([dpkg, "-L", _PACKAGE], capture_output=True, text=True, timeout=30)
    return [Path(line) for line in listed.stdout.splitlines() if Path(line).match(_JARS)]
