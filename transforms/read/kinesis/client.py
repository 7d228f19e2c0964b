"""Asking Kinesis, and saying in our words what fails."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import boto3  # pyright: ignore[reportMissingImports]
from botocore import exceptions  # pyright: ignore[reportMissingImports]
from botocore.config import Config  # pyright: ignore[reportMissingImports]

from ..errors import SourceError, Unavailable
from .inputs import KinesisInput

MOST_RECORDS = 10_000
"""Records of an answer. It may have 10 MiB too."""
CONNECTIONS = 16
DONE = "done"
"""The cursor of a shard that is closed, and has been read to its end."""
_AT = "at:"
_ASK_SECONDS = 10.0
_CREDENTIALS = (
    "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "InvalidSignatureException", "MissingAuthenticationToken", "UnrecognizedClientException",
)  # fmt: skip
_NO_CREDENTIALS = (
    "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or make a "
    "profile with: aws configure"
)
_THROTTLED = (
    "KMSThrottlingException", "LimitExceededException", "ProvisionedThroughputExceededException",
    "ThrottlingException",
)  # fmt: skip


class Expired(Exception):
    """An iterator that was not used for five minutes."""


class Throttled(Unavailable):
    """The stream gives no more just now: others read it too, or we read too much."""


class Shard(NamedTuple):
    """A shard, and the shards that it was split from or merged of, as far as they are there."""

    name: str
    parents: tuple[str, ...]
    is_open: bool


class Answer(NamedTuple):
    """Records as boto3 gives them; ``next`` goes on from there, ``None`` where the shard ends;
    ``behind_ms`` is how far they are from the shard's newest."""

    records: list[Mapping[str, Any]]
    next: str | None
    behind_ms: int


class Kinesis:
    """A connection to a stream. Methods may be called from several threads.

    All raise ``SourceError`` where the stream cannot be read as things are, and ``Unavailable``
    where the service does not answer, or cannot serve just now.
    """

    def __init__(self, input: KinesisInput) -> None:
        self._input = input
        config = Config(
            connect_timeout=_ASK_SECONDS,
            read_timeout=_ASK_SECONDS,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1},
        )
        with self._explained():
            self._client: Any = boto3.session.Session().client(
                "kinesis",
                region_name=input.region,
                endpoint_url=input.endpoint or None,
                config=config,
            )

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def shards(self) -> dict[str, Shard]:
        """The shards that there are, by name."""
        asked: dict[str, Any] = {"StreamName": self._input.stream}
        found: list[Any] = []
        with self._explained():
            while asked:
                answer = self._client.list_shards(**asked)
                found += answer["Shards"]
                token = answer.get("NextToken")
                asked = {"NextToken": token} if token else {}
        names = {shard["ShardId"] for shard in found}
        return {shard["ShardId"]: _shard(shard, names) for shard in found}

    def iterator(self, shard: str, cursor: str) -> str:
        """What reads a shard on from a cursor: behind the record that has the number, from a time
        on (see :func:`cursor_at`), or from the oldest record if it is empty."""
        asked: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if cursor.startswith(_AT):
            moment = dt.datetime.fromisoformat(cursor.removeprefix(_AT))
            asked = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": moment}
        elif cursor:
            asked = {
                "ShardIteratorType": "AFTER_SEQUENCE_NUMBER",
                "StartingSequenceNumber": cursor,
            }
        with self._explained():
            answer = self._client.get_shard_iterator(
                StreamName=self._input.stream, ShardId=shard, **asked
            )
        return answer["ShardIterator"]

    def records(self, iterator: str) -> Answer:
        """What comes next.

        Raises:
            Expired: the iterator cannot be used any more.
            Throttled: ask again later.
        """
        with self._explained():
            answer = self._client.get_records(ShardIterator=iterator, Limit=MOST_RECORDS)
        behind = answer.get("MillisBehindLatest", 0)
        return Answer(answer["Records"], answer.get("NextShardIterator"), behind)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.BotoCoreError, exceptions.ClientError) as error:
            raise _explained(error, self._input.place) from error


def cursor_at(moment: dt.datetime) -> str:
    """The cursor of a shard that is to be read from a time on."""
    return f"{_AT}{moment.isoformat()}"


def _shard(said: Mapping[str, Any], names: set[str]) -> Shard:
    parents = (said.get("ParentShardId"), said.get("AdjacentParentShardId"))
    is_open = "EndingSequenceNumber" not in said["SequenceNumberRange"]
    return Shard(said["ShardId"], tuple(p for p in parents if p in names), is_open)


def _explained(error: Any, place: str) -> Exception:
    """The error to raise in place of boto3's."""
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return SourceError(f"{place}: {_NO_CREDENTIALS}")
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return Unavailable(f"{place} cannot be reached: {type(error).__name__}")
    if not isinstance(error, exceptions.ClientError):
        return SourceError(f"{place}: {error}")
    said: Any = error.response.get("Error", {})
    code, message = str(said.get("Code", "")), " ".join(str(said.get("Message", "")).split())[:300]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "ExpiredIteratorException":
        return Expired(message)
    if code in _THROTTLED:
        return Throttled(f"{place} gives no more just now: {message or code}")
    if code in _CREDENTIALS:
        return SourceError(f"{place}: AWS does not accept the credentials ({code}): {message}")
    if code == "ResourceNotFoundException":
        return SourceError(f"{place}: there is no such stream: {message}")
    if code == "AccessDeniedException":
        return SourceError(
            f"{place}: no permission; allow kinesis:ListShards, kinesis:GetShardIterator and "
            f"kinesis:GetRecords: {message}"
        )
    if status >= 500:
        return Unavailable(f"{place} cannot serve just now: {message or code}")
    return SourceError(f"{place}: {message or code}")
