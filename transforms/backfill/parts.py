"""The parts of a backfill: spans of event time that begin and end with windows.

Instants are microseconds since 1970-01-01 UTC, spans ``[start, end)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...schemas.aggregates.windows import Daily, Fixed, Session, Sliding, Window
from ..receipts import moment

DAY_US = 86_400_000_000
MOST_PARTS = 100_000
"""Each has files of its own."""


class PartError(ValueError):
    """A span that does not begin and end with windows. The message says what would."""


class Part(NamedTuple):
    """A span of event time."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{iso(self.start)} to {iso(self.end)}"


def iso(instant: int) -> str:
    """An instant in ISO 8601, as short as it can be: midnights as dates."""
    found = moment(instant)
    if instant % DAY_US == 0:
        return f"{found:%Y-%m-%d}"
    return found.isoformat().removesuffix("+00:00") + "Z"


def edge_before(window: Window, instant: int) -> int:
    """The last instant, not after another, at which a window may begin."""
    match window:
        case Sliding():
            return instant // window.every_us * window.every_us
        case Session():
            return instant
        case _:
            return int(window.slices(np.array([instant]))[0])


def edge_after(window: Window, edge: int) -> int:
    """The edge that follows another."""
    match window:
        case Sliding():
            return edge + window.every_us
        case Session():
            return edge + 1
        case _:
            return int(window.ends(np.array([edge]))[0])


def closed_before(window: Window, watermark: int) -> int:
    """The last edge before which no window begins that ends after a watermark.

    Of sessions that is true of those alone that nobody holds open.
    """
    if isinstance(window, Sliding):
        return edge_before(window, watermark - window.size_us) + window.every_us
    return edge_before(window, watermark)


def needed_until(window: Window, end: int) -> int:
    """Up to where records are needed of windows that begin before an edge. Of sessions that is only
    known once their records are: none of these is looked at here."""
    return end - window.every_us + window.size_us if isinstance(window, Sliding) else end


def needed_from(window: Window, start: int) -> int:
    """From where records are needed to tell which windows begin at an edge or later."""
    return start - window.gap_us if isinstance(window, Session) else start


def default_partition(windows: Sequence[Window]) -> int:
    """A day, or more where windows are longer: the least common multiple."""
    sizes = [w.size_us for w in windows if isinstance(w, Fixed)]
    sizes += [w.every_us for w in windows if isinstance(w, Sliding)]
    return math.lcm(DAY_US, *sizes)


def parts(windows: Sequence[Window], start: int, end: int, partition_us: int) -> list[Part]:
    """A span in parts that begin and end with windows of all kinds that there are.

    Raises:
        PartError: it begins or ends within a window, or parts of the length would.
    """
    if end <= start:
        raise PartError(f"--to {iso(end)} is not after --from {iso(start)}")
    if (count := -(-(end - start) // partition_us)) > MOST_PARTS:
        said = f"--partition: there would be {count:,} parts, of which {MOST_PARTS:,} are the most"
        raise PartError(f"{said}; say a longer one")
    for name, instant in (("--from", start), ("--to", end)):
        for window in windows:
            _refuse_inside(name, instant, window)
    edges = _edges(windows, start, end, partition_us)
    return [Part(a, b) for a, b in zip(edges, [*edges[1:], end], strict=True)]


def zone_of(windows: Sequence[Window]) -> str:
    """The time zone whose days are windows; ``UTC`` if none are.

    Raises:
        PartError: days of several zones are.
    """
    zones = sorted({window.zone for window in windows if isinstance(window, Daily)})
    if len(zones) > 1:
        said = f"the days of {zones[0]} and {zones[1]} do not begin together"
        raise PartError(f"{said}: backfill these aggregates one by one, with --aggregate")
    return zones[0] if zones else "UTC"


def _refuse_inside(name: str, instant: int, window: Window) -> None:
    before = edge_before(window, instant)
    if before != instant:
        after = edge_after(window, before)
        said = f"{name} {iso(instant)} lies within a window; the nearest edges are"
        raise PartError(f"{said} {iso(before)} and {iso(after)}")


def _edges(windows: Sequence[Window], start: int, end: int, partition_us: int) -> list[int]:
    daily = next((window for window in windows if isinstance(window, Daily)), None)
    zone_of(windows)
    if daily is not None:
        days, rest = divmod(partition_us, DAY_US)
        if rest:
            raise PartError(f"--partition: expected whole days, for the windows are {daily.zone}'s")
        starts = [start]
        while starts[-1] < end:
            starts.append(edge_after(daily, starts[-1]))
        edges = starts[:-1:days]
    else:
        edges = list(range(start, end, partition_us))
    for edge in edges:
        for window in windows:
            if edge_before(window, edge) != edge:
                whole = default_partition(windows) // 1_000_000
                said = "--partition: it is not a multiple of the windows"
                raise PartError(f"{said}; {whole}s would be one")
    return edges
