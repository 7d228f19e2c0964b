"""Publishing in requests of our own size, several at a time, and saying in our words what fails.

The client's own queue is not used: with ordering keys it tries for ever, and where credentials fail
it never says so. What it would do, requests of at most 1000 messages and a limit on what is on its
way, is little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import google.cloud.pubsub_v1 as pubsub_v1  # pyright: ignore[reportMissingImports]
import numpy as np
import pyarrow.compute as pc
from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
from google.api_core.retry import Retry, if_exception_type  # pyright: ignore[reportMissingImports]
from google.pubsub_v1 import (  # pyright: ignore[reportMissingImports]
    PublisherClient,
    PublishRequest,
    PubsubMessage,
)

from ...pubsub.errors import FAILURES, PASSING, explained
from ..errors import DestinationError
from .messages import ROOM_BYTES, Messages

REQUEST_MESSAGES = 1000
"""What a request may have at most."""
REQUEST_BYTES = 4 << 20
"""From which size on a request has no further message. It may have 10 MB."""
REQUESTS = 8
"""Requests that are on their way at a time."""
SECONDS = 30.0
"""How long a request is tried for: the client's own ten minutes would hide a service that fails."""
ASK_SECONDS = 10.0

_RETRY = Retry(if_exception_type(*PASSING), initial=0.1, maximum=10, timeout=SECONDS)
_Message = PubsubMessage.pb()
_Request = PublishRequest.pb()


@contextmanager
def connected(place: str) -> Iterator[Client]:
    """A client for as long as the block lasts; what fails is raised in our words.

    Raises:
        DestinationError: the service refuses what is done, or there are no credentials.
        Unavailable: it does not answer, or cannot serve just now.
    """
    try:
        client = pubsub_v1.PublisherClient()
        try:
            yield Client(client)
        finally:
            client.transport.close()
    except FAILURES as error:
        role = "roles/pubsub.publisher"
        raise explained(error, place, DestinationError, what="topic", role=role) from error


class Client:
    """A connection to Pub/Sub."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def exists(self, topic: str) -> bool:
        """Whether there is a topic, as far as it may be known: publishers need not see topics."""
        try:
            self._client.get_topic(topic=topic, retry=None, timeout=ASK_SECONDS)
        except exceptions.NotFound:
            return False
        except exceptions.PermissionDenied:
            return True
        return True

    def send(self, request: Any) -> None:
        """Publish the messages of a request; when this returns they are Pub/Sub's."""
        PublisherClient.publish(self._client, request=request, retry=_RETRY, timeout=SECONDS)


class Publishing:
    """Messages on their way to a topic. When the block ends, all have arrived.

    Messages with one ordering key arrive in their order; others in any.

    Args:
        attributes: what all messages carry besides ``id`` and ``event_time``.
    """

    def __init__(self, client: Client, topic: str, attributes: dict[str, str]) -> None:
        self._client = client
        self._topic = topic
        self._attributes = attributes
        self._threads = ThreadPoolExecutor(REQUESTS, "millstream-publish")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Publishing:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if error is None:
                self._wait(0)
        finally:
            self._threads.shutdown(cancel_futures=True)

    def publish(self, messages: Messages) -> None:
        """Send messages; returns when most have arrived."""
        for key, rows in _by_key(messages):
            requests = list(_requests(messages, rows))
            # Those of one key one after another, others side by side.
            for some in [requests] if key else [[request] for request in requests]:
                self._submit(partial(self._send, messages, some, key))
        if messages.keys is not None:
            self._wait(0)  # what follows may have keys that are still on their way

    def _send(self, messages: Messages, requests: Sequence[Sequence[int]], key: str) -> None:
        for rows in requests:
            self._client.send(self._request(messages, rows, key))

    def _submit(self, send: Callable[[], None]) -> None:
        self._wait(2 * REQUESTS)
        self._waiting.append(self._threads.submit(send))

    def _wait(self, most: int) -> None:
        """Until no more requests than that are on their way."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()

    def _request(self, messages: Messages, rows: Sequence[int], key: str) -> Any:
        data = messages.data.take(rows).to_pylist()
        times = messages.times.take(rows).to_pylist()
        made = []
        for n, value, time in zip(rows, data, times, strict=True):
            attributes = {**self._attributes, "id": messages.ids[n]}
            if time is not None:
                attributes["event_time"] = time
            made.append(_Message(data=value, attributes=attributes, ordering_key=key))
        return PublishRequest.wrap(_Request(topic=self._topic, messages=made))


def _by_key(messages: Messages) -> Iterator[tuple[str, np.ndarray]]:
    """Each key, and the numbers of its messages, in order."""
    if messages.keys is None:
        yield "", np.arange(len(messages))
        return
    encoded = messages.keys.dictionary_encode()
    codes = encoded.indices.to_numpy()
    rows = np.argsort(codes, kind="stable")
    texts = encoded.dictionary.to_pylist()
    for some in np.split(rows, np.flatnonzero(np.diff(codes[rows])) + 1):
        if len(some):
            yield texts[codes[some[0]]], some


def _requests(messages: Messages, rows: np.ndarray) -> Iterator[list[int]]:
    """Numbers of messages, so many at a time as make a request."""
    sizes = pc.binary_length(messages.data).to_numpy()[rows] + ROOM_BYTES // 4
    ends = np.cumsum(sizes)
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        end = int(np.searchsorted(ends, before + REQUEST_BYTES))
        end = max(start + 1, min(end, start + REQUEST_MESSAGES, len(rows)))
        yield rows[start:end].tolist()
        start = end
