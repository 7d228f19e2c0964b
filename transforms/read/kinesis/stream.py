"""A stream of Kinesis as a stream of batches: its shards are sources.

Sequence numbers have up to 56 digits. A position is a record's ordinal in its shard, from the first
that was read; the number of the last record is the cursor. Shards that were split or merged end,
and their children are read once their parents have been.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ....schemas.watermarks import NEVER
from ...carry import SourceState
from ..errors import SourceError
from ..streams.source import StreamReader, StreamSource
from .client import DONE, Kinesis, cursor_at
from .inputs import KinesisInput, shard_of
from .reader import KinesisReader


@dataclass(frozen=True)
class KinesisStream(StreamSource):
    """A stream. Without an end it is read by one part of it, for children have to wait for parents;
    others have nothing to read.

    Attributes:
        done: shards that are known to be read to their end.
    """

    input: KinesisInput
    done: frozenset[str] = frozenset()
    number: int = 0

    def open(self, states: Mapping[str, SourceState]) -> StreamReader:
        return KinesisReader(self.input, states, self.done)

    def part(self, number: int, parts: int) -> StreamSource:
        return replace(self, number=number)

    def owns(self, source: str) -> bool:
        return self.number == 0 and source.startswith(self.input.source_name(""))


class Begun(NamedTuple):
    """Where the shards of a stream stand that are there now, those that are done among them."""

    states: dict[str, SourceState]
    done: frozenset[str]


def begin(input: KinesisInput, known: Mapping[str, SourceState], watermark: int = NEVER) -> Begun:
    """From where each shard is to be read.

    Args:
        known: where shards stand; empty if nothing has been read yet.
        watermark: what is new is judged by what has been closed.

    Raises:
        SourceError: there is no such stream, or we are not let in; or a shard is gone that was not
            read to its end.
        Unavailable: the service does not answer.
    """
    client = Kinesis(input)
    try:
        shards = client.shards()
    finally:
        client.close()
    _refuse_gone(input, known, shards)
    is_new = not any(input.source_name(name) in known for name in shards)
    states: dict[str, SourceState] = {}
    for name, shard in shards.items():
        source = input.source_name(name)
        if source in known:
            states[source] = known[source]
        elif not is_new:
            states[source] = SourceState(floor=watermark)  # it has come since: all of it is new
        elif input.start == "latest" and not shard.is_open:
            states[source] = SourceState(cursor=DONE)
        else:
            states[source] = SourceState(cursor=_start(input), floor=watermark)
    done = {name for name in shards if states[input.source_name(name)].cursor == DONE}
    return Begun(states, frozenset(done))


def _refuse_gone(
    input: KinesisInput, known: Mapping[str, SourceState], shards: Collection[str]
) -> None:
    for source, state in known.items():
        is_ours = source.startswith(input.source_name(""))
        if is_ours and state.cursor != DONE and shard_of(source) not in shards:
            raise SourceError(
                f"{input.place}: {shard_of(source)} is gone by the stream's retention, and was not "
                "read to its end. To go on from what is left, give the job another state folder"
            )


def _start(input: KinesisInput) -> str:
    """The cursor of a shard of which nothing has been read."""
    if input.start == "earliest":
        return ""
    if input.start == "latest":
        # A time, for what comes before the first record is read must not be passed over.
        return cursor_at(dt.datetime.now(dt.UTC))
    return cursor_at(input.start)
