"""What one commit hands on to the next: positions, watermarks, and the windows that are open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from ..schemas.watermarks import NEVER

CARRY_FORMAT = "millstream.carry/1"
KEYS_FORMAT = "millstream.keys/1"


class SourceState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far one partition of the input has been read.

    ``next`` is the first position that has not been read; ``newest`` the greatest event time so
    far; ``floor`` a watermark that the partition was raised to while it was idle, or when windows
    were closed. Both are microseconds since 1970-01-01 UTC. ``cursor`` is what a service wants to
    be told to go on from ``next``, where that is no number.
    """

    next: int = 0
    newest: int = NEVER
    floor: int = NEVER
    cursor: str = ""

    def watermark(self, disorder_us: int) -> int:
        """The event time that no record of the partition comes before, unless it is late."""
        return max(self.newest - disorder_us, self.floor)


class HeldFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of states of open windows, in the run store."""

    path: str
    shard: int
    rows: int
    bytes: int


class OpenWindows(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The windows of one aggregate that are still open, or may be corrected.

    ``described`` is the aggregate that the states are of; ``records`` has by source, how many
    records are in windows that close at which watermark.
    """

    described: str
    files: tuple[HeldFile, ...] = ()
    records: dict[str, list[tuple[int, int]]] = {}

    def open_records(self) -> dict[str, int]:
        """Records in open windows, by source."""
        return {source: sum(n for _, n in closing) for source, closing in self.records.items()}


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of keys that were kept, in the run store: see ``deduplicate.key_files``.

    The event times of half of them are not after ``middle``, and of none after ``newest``.
    """

    path: str
    shard: int
    rows: int
    middle: int
    newest: int


class KeptKeys(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Keys that were kept so lately that a record may still be their duplicate.

    Only with hashes of the same ``key`` (names of fields) and ``kinds`` can they be compared.
    """

    format: str = KEYS_FORMAT
    key: tuple[str, ...]
    kinds: tuple[str, ...]
    files: tuple[KeyFile, ...] = ()


class Carry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a commit leaves to the next one. ``sequence`` counts commits from 1.

    ``watermark`` is where windows are closed up to; ``topics`` are what streams are known by, to
    tell when one has been made anew; ``seen`` is the file that lists the input files read so far;
    ``keys`` are what records are duplicates of.
    """

    format: str = CARRY_FORMAT
    sequence: int = 0
    token: str = ""
    watermark: int = NEVER
    shards: int = 1
    sources: dict[str, SourceState] = {}
    aggregates: dict[str, OpenWindows] = {}
    topics: dict[str, str] = {}
    seen: str = ""
    keys: KeptKeys | None = None

    @property
    def held_paths(self) -> set[str]:
        """Files that a later commit needs."""
        paths = {file.path for windows in self.aggregates.values() for file in windows.files}
        return paths | {file.path for file in (self.keys.files if self.keys else ())}


class Reached(NamedTuple):
    """That a partition has been read from ``start`` to ``end``, to which ``newest`` is the greatest
    event time; ``idle`` if there was nothing to read and there is nothing more. ``floor`` is a
    watermark that its reader judges it by, whatever it holds; ``is_new`` if the partition was found
    while the stream was read, and begins here."""

    source: str
    start: int
    end: int
    newest: int = NEVER
    idle: bool = False
    floor: int = NEVER
    cursor: str = ""
    is_new: bool = False


class Unacknowledged(NamedTuple):
    """What a service is to be told once records are committed: see ``StreamSource.acknowledge``."""

    receipts: tuple[str, ...]


class Stopped(NamedTuple):
    """That a part of an endless stream is read no more: what has been read is to be committed."""

    part: int


class Opened(NamedTuple):
    """That so many records of a source went into an aggregate's windows that are all closed when
    the watermark reaches ``closes``."""

    output: str
    source: str
    closes: int
    rows: int


class NewKeys(NamedTuple):
    """Keys that a slice of a stream kept: see ``TimedKeys.to_bytes``. ``memory`` names that of the
    worker that judged. If that was the runner's state of a shard, ``version`` is of which version
    it was."""

    keys: bytes
    memory: str = ""
    version: bytes = b""


def advanced(
    carry: Carry, reached: Iterable[Reached], disorder_us: int
) -> tuple[dict[str, SourceState], int]:
    """The states of all sources after more has been read, and the watermark.

    The watermark is the least of all partitions that are not idle, and never falls. An idle
    partition holds nothing back: it is raised to the watermark, so that what it brings later is
    judged by what has been closed meanwhile. One that is still being read judges by the floor that
    was told, and counts with it.
    """
    sources = dict(carry.sources)
    idle: set[str] = set()
    for part in reached:
        before = sources.get(part.source, SourceState())
        sources[part.source] = SourceState(
            next=max(part.end, before.next),
            newest=max(part.newest, before.newest),
            floor=max(part.floor, before.floor),
            cursor=part.cursor or before.cursor,
        )
        (idle.add if part.idle and part.floor <= NEVER else idle.discard)(part.source)
    marks = {source: state.watermark(disorder_us) for source, state in sources.items()}
    active = [mark for source, mark in marks.items() if source not in idle]
    # Once nothing is on its way anywhere, time has come as far as it has in any partition.
    reached_by_all = min(active) if active else max(marks.values(), default=NEVER)
    watermark = max(carry.watermark, reached_by_all)
    return _raised(sources, idle, watermark), watermark


def raised(sources: Mapping[str, SourceState], watermark: int) -> dict[str, SourceState]:
    """All sources with at least this watermark."""
    return _raised(sources, sources.keys(), watermark)


def _raised(
    sources: Mapping[str, SourceState], those: Iterable[str], watermark: int
) -> dict[str, SourceState]:
    found = dict(sources)
    for source in those:
        state = found[source]
        found[source] = msgspec.structs.replace(state, floor=max(state.floor, watermark))
    return found
