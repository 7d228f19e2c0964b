"""Pub/Sub: Google's publisher with its own queue, whose requests are as large as ours. Read back by
pulling. A topic and its subscription are there as soon as their place has been asked for."""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from google.cloud import pubsub_v1

from native import Held, Way
from native.json_messages import messages_of, rows_of

SECONDS = 600
_EMPTY = 3
"""Pulls in a row without a message, after which there are none: the emulator hands out late."""
_REQUESTS = pubsub_v1.types.BatchSettings(max_messages=1000, max_bytes=4 << 20, max_latency=0.05)


def publish(place: str, rows: pa.Table) -> Callable[[], None]:
    topic, _ = _names(place)

    def load() -> None:
        with pubsub_v1.PublisherClient(_REQUESTS) as client:
            futures = [
                client.publish(topic, value, id=key.decode()) for key, value in messages_of(rows)
            ]
            for future in futures:
                future.result(SECONDS)

    return load


WAYS = (Way("Google's publisher and msgspec", publish),)


def prepare(place: str) -> None:
    return


def read(place: str) -> Held:
    """At least once is promised: a message that came twice, by its id, counts once."""
    _, subscription = _names(place)
    found: dict[str, bytes] = {}
    empty = 0
    with pubsub_v1.SubscriberClient() as client:
        while empty < _EMPTY:
            asked = {
                "subscription": subscription, "max_messages": 1000, "return_immediately": True,
            }  # fmt: skip
            pulled = client.pull(request=asked, timeout=SECONDS).received_messages
            empty = 0 if pulled else empty + 1
            found |= {one.message.attributes["id"]: one.message.data for one in pulled}
            if pulled:
                ids = [one.ack_id for one in pulled]
                client.acknowledge(subscription=subscription, ack_ids=ids)
    return Held(rows_of(list(found.values())), {})


def drop(place: str) -> None:
    topic, subscription = _names(place)
    with pubsub_v1.SubscriberClient() as client:
        client.delete_subscription(subscription=subscription)
    with pubsub_v1.PublisherClient() as client:
        client.delete_topic(topic=topic)


def _names(place: str) -> tuple[str, str]:
    project, _, topic = place.removeprefix("pubsub://").partition("/")
    inside = f"projects/{project}"
    return f"{inside}/topics/{topic}", f"{inside}/subscriptions/{topic}"
