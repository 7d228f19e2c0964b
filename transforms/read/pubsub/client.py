"""Asking Pub/Sub for messages, and saying in our words what fails.

Calls are of the generated client, without its retries and without its queues: who pulls by threads
of one's own knows what is on its way.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import google.cloud.pubsub_v1 as pubsub_v1  # pyright: ignore[reportMissingImports]
import grpc  # pyright: ignore[reportMissingImports]
from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
from google.api_core.gapic_v1.routing_header import (  # pyright: ignore[reportMissingImports]
    to_grpc_metadata,
)
from google.api_core.retry import Retry, if_exception_type  # pyright: ignore[reportMissingImports]
from google.pubsub_v1 import PullRequest, PullResponse  # pyright: ignore[reportMissingImports]
from google.pubsub_v1.services.subscriber.transports import (  # pyright: ignore[reportMissingImports]
    SubscriberGrpcTransport,
)

from ...pubsub.errors import FAILURES, PASSING, explained
from ..errors import SourceError, Unavailable
from .inputs import PubsubInput

EMULATOR = "PUBSUB_EMULATOR_HOST"
PULL_MESSAGES = 1000
"""What a pull may give at most."""
PULL_SECONDS = 5.0
"""How long a pull waits for a first message."""
ASK_SECONDS = 10.0
REQUESTS = 4
"""Requests of acknowledgements that are on their way at a time."""
_REQUEST_IDS = 1000
_REQUEST_BYTES = 400_000
"""A request of ids may have 512 KiB.

Source: https://cloud.google.com/pubsub/quotas#resource_limits
"""
_TRY_SECONDS = 30.0

_RETRY = Retry(if_exception_type(*PASSING), initial=0.1, maximum=5, timeout=_TRY_SECONDS)


class _Late(Unavailable):
    """A pull that gave nothing in time."""


class Subscription:
    """A connection to a subscription. Methods may be called from several threads.

    All raise ``SourceError`` where the subscription cannot be read as things are, and
    ``Unavailable`` where the service does not answer, or cannot serve just now.
    """

    def __init__(self, input: PubsubInput) -> None:
        self._input = input
        self._asked = {"subscription": input.path, "max_messages": PULL_MESSAGES}
        self._routing = to_grpc_metadata({"subscription": input.path})
        with self._explained():
            self._client: Any = _client()

    def close(self) -> None:
        """End all calls that are on their way."""
        self._client.transport.close()

    def pull(self) -> list[Any]:
        """Messages with their acknowledgement ids; none if none came within ``PULL_SECONDS``.

        A pull that is given up may still be given messages, which are held for nobody then.
        """
        try:
            return self._pull(PullRequest(**self._asked), PULL_SECONDS)
        except _Late:
            return []

    def pull_now(self) -> list[Any]:
        """What there is now. A service under load may say that there is nothing.

        To ask so is deprecated for that. There is no other way to hear that it has nothing.
        """
        return self._pull(PullRequest(**self._asked, return_immediately=True), ASK_SECONDS)

    def _pull(self, request: Any, seconds: float) -> list[Any]:
        # The client's own method warns of what is deprecated, in whichever thread.
        with self._explained():
            try:
                answer = self._client.transport.pull(
                    request, timeout=seconds, metadata=[self._routing]
                )
            except grpc.RpcError as error:
                found = exceptions.from_grpc_error(error)
                if isinstance(found, exceptions.DeadlineExceeded):
                    raise _Late(f"{self._input.place} has not answered for {seconds} s") from error
                raise found from error
        return list(PullResponse.pb(answer).received_messages)

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Have messages not be given again."""
        for some in _requests(ack_ids):
            self._acknowledge(some)

    def acknowledge_all(self, ack_ids: Sequence[str]) -> None:
        """The same, several requests at a time."""
        with ThreadPoolExecutor(REQUESTS, "millstream-acknowledge") as threads:
            list(threads.map(self._acknowledge, _requests(ack_ids)))

    def _acknowledge(self, ack_ids: Sequence[str]) -> None:
        asked = {"subscription": self._input.path, "ack_ids": ack_ids}
        with self._explained():
            self._client.acknowledge(request=asked, retry=_RETRY, timeout=_TRY_SECONDS)

    def extend(self, ack_ids: Sequence[str], seconds: int) -> None:
        """Have messages not be given again for so long from now; 0: give them to anybody."""
        for some in _requests(ack_ids):
            asked = {
                "subscription": self._input.path,
                "ack_ids": some,
                "ack_deadline_seconds": seconds,
            }
            with self._explained():
                self._client.modify_ack_deadline(request=asked, retry=None, timeout=ASK_SECONDS)

    def check(self) -> None:
        """See whether it is there, as far as that may be known: readers need not see it."""
        with self._explained(), suppress(exceptions.PermissionDenied):
            asked = {"subscription": self._input.path}
            self._client.get_subscription(request=asked, retry=_RETRY, timeout=_TRY_SECONDS)

    def seek(self, moment: dt.datetime) -> None:
        """Have it give all messages again, and only those, that were published since."""
        asked = {"subscription": self._input.path, "time": moment}
        with self._explained():
            self._client.seek(request=asked, retry=_RETRY, timeout=_TRY_SECONDS)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            role, place = "roles/pubsub.subscriber", self._input.place
            raise explained(error, place, SourceError, what="subscription", role=role) from error


def _client() -> Any:
    address = os.environ.get(EMULATOR)
    if not address:
        return pubsub_v1.SubscriberClient()
    # For the emulator, the client would take messages of 4 MB at most.
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    return pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


def _requests(ack_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids, so many at a time as a request may have."""
    longest = max(map(len, ack_ids), default=1)
    step = max(1, min(_REQUEST_IDS, _REQUEST_BYTES // (longest + 4)))
    for start in range(0, len(ack_ids), step):
        yield ack_ids[start : start + step]
