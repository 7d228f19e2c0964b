"""What is to be read of which subscription: ``pubsub://PROJECT/SUBSCRIPTION?…``.

Credentials are those of the environment (application default credentials). Options:

- ``start=``: where to begin, if nothing is committed yet. ``earliest`` (the default: with what the
  subscription holds), ``latest``, or a time such as ``2026-11-29T12:00:00Z``. The last two seek the
  subscription, for all who read it.
- ``format=json|avro``, and with ``avro`` ``schema=FILE``: messages are bare datums of that schema.
- ``horizon=1d``: for how long it is known which messages are committed, from the newest commit
  back. Pub/Sub gives a message again whose acknowledgement was lost.
- ``max_extension=1h``: for how long messages are kept from being given again while they wait for
  their commit.
- ``max_messages=1000000`` and ``max_mb=1024``: how much may wait for its commit. A stream waits
  then; a run with ``until: now`` ends there, and the next one goes on.

A subscription is read by one job. With message ordering Pub/Sub may keep the messages of a key
back until those before them are acknowledged, which they are once they are committed: a run with
``until: now`` may then leave some of them to the next one.

A message that is refused as it is read or parsed has in the ``attributes`` of its dead letter
``pubsub.message_id``, ``pubsub.publish_time`` (RFC 3339), ``pubsub.ordering_key`` if it has one,
and ``pubsub.attribute.NAME`` for each of its attributes, by their names. A text that holds a NUL is
base64, under ``pubsub.ordering_key_base64`` and ``pubsub.attribute_base64.NAME``.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import SourceError
from ..options import (
    BareFormat,
    bare_format,
    duration_us,
    given_options,
    naming,
    word_or_moment,
)

SCHEME = "pubsub"
OPTIONS = (
    "start", "format", "schema", "horizon", "max_extension", "max_messages", "max_mb",
)  # fmt: skip

Beginning = Literal["earliest", "latest"]

_BEGINNINGS: tuple[Beginning, ...] = get_args(Beginning)
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{1,60}")
_SUBSCRIPTION = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}")
_NUMBER = re.compile(r"[1-9]\d{0,8}")


@dataclass(frozen=True)
class PubsubInput:
    """What is to be read of a subscription.

    Attributes:
        start: a time has a zone.
        horizon, max_extension: in seconds.
    """

    project: str
    subscription: str
    start: Beginning | dt.datetime = "earliest"
    format: BareFormat = "json"
    schema: str = ""
    horizon: float = 86_400.0
    max_extension: float = 3600.0
    max_messages: int = 1_000_000
    max_mb: int = 1024

    @property
    def place(self) -> str:
        """The subscription's URI, without options."""
        return f"{SCHEME}://{self.project}/{self.subscription}"

    @property
    def path(self) -> str:
        """What the service calls it."""
        return f"projects/{self.project}/subscriptions/{self.subscription}"

    @property
    def source(self) -> str:
        """What rows have as their ``_source``; their ``_position`` is the message's id.

        >>> PubsubInput("shop", "clicks").source
        'pubsub:shop/clicks'
        """
        return f"{SCHEME}:{self.project}/{self.subscription}"


def parse_input(uri: str) -> PubsubInput:
    """What a URI says.

    Raises:
        SourceError: it names no subscription, or an option cannot be used.
    """
    said, _, query = uri.partition("?")
    scheme, _, rest = said.partition(":")
    empty, _, place = rest.partition("//")
    project, _, subscription = place.partition("/")
    is_one = _PROJECT.fullmatch(project) and _SUBSCRIPTION.fullmatch(subscription)
    if scheme != SCHEME or empty or not is_one:
        raise SourceError(
            f"{SCHEME}: expected {SCHEME}://PROJECT/SUBSCRIPTION, by the ids that Google Cloud "
            "allows; credentials are taken from the environment"
        )
    with naming(scheme):
        given = given_options(query, OPTIONS)
        form, schema = bare_format(given)
        return PubsubInput(
            project,
            subscription,
            start=word_or_moment("start", given.get("start", "earliest"), _BEGINNINGS),
            format=form,
            schema=schema,
            horizon=duration_us("horizon", given.get("horizon", "1d")) / 1e6,
            max_extension=duration_us("max_extension", given.get("max_extension", "1h")) / 1e6,
            max_messages=_number("max_messages", given.get("max_messages", "1000000")),
            max_mb=_number("max_mb", given.get("max_mb", "1024")),
        )


def _number(option: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise SourceError(f"{option}={text}: expected a whole number above 0")
    return int(text)
