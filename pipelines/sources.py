"""What a job that goes on reads, and how to tell what of it is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..transforms.carry import Carry, SourceState
from ..transforms.plan import InputFile, Interval
from .job import Places

if TYPE_CHECKING:
    from ..transforms.read.streams.source import StreamSource
    from .run import Reads


@dataclass(frozen=True)
class Planned:
    """What a run reads: files, or intervals of a stream.

    Attributes:
        seen: all files that are there, those that were read before among them.
        states: where partitions begin that have not been read before.
        topics: what streams are known by.
        read: puts the reading of the intervals into a pipeline.
        stream: is told what is committed.
    """

    inputs: tuple[InputFile, ...] = ()
    intervals: tuple[Interval, ...] = ()
    seen: tuple[InputFile, ...] = ()
    states: dict[str, SourceState] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    read: Reads | None = None
    stream: StreamSource | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return not self.inputs and all(part.start == part.end for part in self.intervals)


class Source(Protocol):
    """What a job reads, and how to tell what of it is new."""

    def plan(self, carry: Carry) -> Planned:
        """What has come since the last run.

        Raises:
            JobError: it cannot be gone on from there.
            Unavailable: the service does not answer.
        """
        ...


class ArrivingFiles:
    """Files, of which those that were read before are known by their names."""

    def __init__(self, match: Callable[[], Sequence[InputFile]], places: Places) -> None:
        self._match = match
        self._places = places

    def plan(self, carry: Carry) -> Planned:
        """The files that no run has read.

        Raises:
            JobError: a file that was read has been changed since.
        """
        from ..transforms.intervals.seen import read_seen

        files = tuple(self._match())
        read = {file.source: file for file in read_seen(carry.seen)}
        changed = [f.source for f in files if f.source in read and read[f.source] != f]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            said = f"{changed[0]}{more} was read by an earlier run, and has changed since: put new "
            raise self._places.error(("input",), said + "records into new files")
        # Files that are there no more need not be remembered.
        new = tuple(file for file in files if file.source not in read)
        return Planned(inputs=new, seen=files)
