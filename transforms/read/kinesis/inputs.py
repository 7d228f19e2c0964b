"""What is to be read of which stream: ``kinesis://REGION/STREAM?…``.

Credentials are those of the environment, as boto3 finds them. Options:

- ``start=``: where to begin, if nothing is committed yet. ``earliest`` (the default), ``latest``,
  or a time such as ``2026-11-29T12:00:00Z``.
- ``endpoint=URL``: of a service that speaks Kinesis.
- ``format=json|avro``, and with ``avro`` ``schema=FILE``: records are bare datums of that schema.

Kinesis deletes records after the stream's retention, and does not say so: run jobs more often.
Records that the Kinesis Producer Library has aggregated are several in one, and are dead letters.

A record that is refused as it is read or parsed has in the ``attributes`` of its dead letter
``kinesis.partition_key``, ``kinesis.sequence_number`` and ``kinesis.arrival_time`` (RFC 3339), when
the service received it. A partition key that holds a NUL is base64, under
``kinesis.partition_key_base64``.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from ..errors import SourceError
from ..options import BareFormat, bare_format, given_options, naming, word_or_moment

SCHEME = "kinesis"
OPTIONS = ("start", "endpoint", "format", "schema")

Beginning = Literal["earliest", "latest"]

_BEGINNINGS: tuple[Beginning, ...] = get_args(Beginning)
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_STREAM = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


@dataclass(frozen=True)
class KinesisInput:
    """What is to be read of a stream. A ``start`` that is a time has a zone."""

    region: str
    stream: str
    start: Beginning | dt.datetime = "earliest"
    endpoint: str = ""
    format: BareFormat = "json"
    schema: str = ""

    @property
    def place(self) -> str:
        """The stream's URI, without options."""
        return f"{SCHEME}://{self.region}/{self.stream}"

    def source_name(self, shard: str) -> str:
        """What rows have as their ``_source``; their ``_position`` counts records of the shard from
        the first that was read.

        >>> KinesisInput("eu-west-1", "clicks").source_name("shardId-000000000000")
        'kinesis:clicks/shardId-000000000000'
        """
        return f"{SCHEME}:{self.stream}/{shard}"


def shard_of(source: str) -> str:
    """The shard that is called so."""
    return source.rpartition("/")[2]


def parse_input(uri: str) -> KinesisInput:
    """What a URI says.

    Raises:
        SourceError: it names no stream, or an option cannot be used.
    """
    said, _, query = uri.partition("?")
    scheme, _, rest = said.partition(":")
    empty, _, place = rest.partition("//")
    region, _, stream = place.partition("/")
    is_one = _REGION.fullmatch(region) and _STREAM.fullmatch(stream)
    if scheme != SCHEME or empty or not is_one:
        raise SourceError(
            f"{SCHEME}: expected {SCHEME}://REGION/STREAM, by the names that AWS allows; "
            "credentials are taken from the environment"
        )
    with naming(scheme):
        given = given_options(query, OPTIONS)
        form, schema = bare_format(given)
        return KinesisInput(
            region,
            stream,
            start=word_or_moment("start", given.get("start", "earliest"), _BEGINNINGS),
            endpoint=_endpoint(given.get("endpoint", "")),
            format=form,
            schema=schema,
        )


def _endpoint(text: str) -> str:
    if not text:
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.username is not None:
        raise SourceError(
            "the endpoint has credentials in it; put them into the environment variables "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError("endpoint: expected a URL as https://HOST:PORT")
    return text
