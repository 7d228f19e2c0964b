"""Windows of event time: which there are, how a job file writes them, where each begins and ends.

Times are microseconds since 1970-01-01 UTC (int64), windows ``[start, end)``. What a window is
made of are *slices*: each time lies in exactly one, and a state is kept for each. Nothing here
knows a key or a metric.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, available_timezones

import msgspec
import numpy as np

from ..problems import did_you_mean, list_names
from ..temporal import instant_of
from .functions import AggregateError, Groups

MAX_SLICES = 10_000
"""Slices that a sliding window may be made of."""

_UNITS = {"ms": 10**3, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_DURATION = re.compile(r"(\d{1,18})\s*(ms|s|m|h|d)", re.ASCII)
_DAY = _UNITS["d"]
_LONGEST_US = 100_000 * _DAY


class Window:
    """A kind of windows. ``words`` are its keys in a job file, its own name first."""

    words: ClassVar[tuple[str, ...]]
    joins_slices: ClassVar[bool] = False
    """Whether a window is made of several slices, which all have to meet."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Window:
        """The windows that a job file means, whose keys are :attr:`words`.

        Raises:
            AggregateError: they cannot be used.
        """
        raise NotImplementedError

    def described(self) -> dict[str, Any]:
        """Kind and sizes as JSON values, as state files carry them."""
        raise NotImplementedError

    def slices(self, times: np.ndarray) -> np.ndarray:
        """The start of the slice that each time lies in."""
        raise NotImplementedError

    def ends(self, starts: np.ndarray) -> np.ndarray:
        """The ends of the windows that begin at ``starts``."""
        raise NotImplementedError

    def first_closed(self, slices: np.ndarray) -> np.ndarray:
        """The watermark at which the first window of each slice is closed.

        From then on a record in the slice is late: some result has been given without it.
        """
        return self.ends(slices)

    def last_closed(self, slices: np.ndarray) -> np.ndarray:
        """The watermark at which the last window of each slice is closed."""
        return self.ends(slices)


@dataclass(frozen=True, slots=True)
class Fixed(Window):
    """``{fixed: 1m}``: windows of one size, one after the other, aligned to 1970-01-01."""

    size_us: int
    words = ("fixed",)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Fixed:
        return cls(parse_duration(given["fixed"], "window.fixed"))

    def described(self) -> dict[str, Any]:
        return {"window_us": self.size_us, "slice_us": self.size_us}

    def slices(self, times: np.ndarray) -> np.ndarray:
        return times // self.size_us * self.size_us

    def ends(self, starts: np.ndarray) -> np.ndarray:
        return starts + self.size_us


@dataclass(frozen=True, slots=True)
class Sliding(Window):
    """``{sliding: 10m, every: 1m}``: a window of one size begins with every period, aligned to
    1970-01-01. Windows overlap, and share slices as long as the greatest common divisor of both."""

    size_us: int
    every_us: int
    words = ("sliding", "every")
    joins_slices = True

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Sliding:
        size = parse_duration(given["sliding"], "window.sliding")
        if "every" not in given:
            raise AggregateError(
                "window.every: expected how often a window of "
                f"{given['sliding']} begins, such as every: 1m"
            )
        every = parse_duration(given["every"], "window.every")
        if every > size:
            raise AggregateError(
                f"window.every: expected at most the size {given['sliding']}, so that every record "
                f"is in a window, got {given['every']!r}"
            )
        window = cls(size, every)
        if (slices := size // window.slice_us) > MAX_SLICES:
            raise AggregateError(
                f"window: {given['sliding']} every {given['every']} makes {slices} slices a "
                f"window, each as long as their greatest common divisor; at most {MAX_SLICES}"
            )
        return window

    @property
    def slice_us(self) -> int:
        return gcd(self.size_us, self.every_us)

    def described(self) -> dict[str, Any]:
        sizes = {"window_us": self.size_us, "every_us": self.every_us, "slice_us": self.slice_us}
        return {"window": "sliding", **sizes}

    def slices(self, times: np.ndarray) -> np.ndarray:
        return times // self.slice_us * self.slice_us

    def ends(self, starts: np.ndarray) -> np.ndarray:
        return starts + self.size_us

    def first_closed(self, slices: np.ndarray) -> np.ndarray:
        # The first window that begins after (slice - size): all later ones hold the slice too.
        return ((slices - self.size_us) // self.every_us + 1) * self.every_us + self.size_us

    def last_closed(self, slices: np.ndarray) -> np.ndarray:
        return slices // self.every_us * self.every_us + self.size_us


@dataclass(frozen=True, slots=True)
class Session(Window):
    """``{session: 30m}``: a key's records as long as each comes less than a gap after another.

    As in Beam, a record at ``t`` spans ``[t, t + gap)`` and spans that overlap are one window;
    those that only touch are two. So a window ends one gap after its last record.
    """

    gap_us: int
    words = ("session",)
    joins_slices = True

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Session:
        return cls(parse_duration(given["session"], "window.session"))

    def described(self) -> dict[str, Any]:
        return {"window": "session", "gap_us": self.gap_us}

    def slices(self, times: np.ndarray) -> np.ndarray:
        return times

    def ends(self, starts: np.ndarray) -> np.ndarray:
        """The ends of sessions of one record each."""
        return starts + self.gap_us

    def first_closed(self, slices: np.ndarray) -> np.ndarray:
        # Behind the watermark by anything, a record may join a session that has been closed.
        return slices + 1


@dataclass(frozen=True, slots=True)
class Daily(Window):
    """``{daily: Europe/Berlin}``: the days of an IANA time zone, of 23, 24 or 25 hours.

    A day begins with the first instant of its date, and ends where the next one begins: at
    midnight, or at the change of clocks that skips it. A day that the zone has skipped is none; the
    hour before midnight that a late change of clocks repeats is the next day's.
    """

    zone: str
    words = ("daily",)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Daily:
        zone = given["daily"]
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError, TypeError, AttributeError):  # what ZoneInfo raises
            known = available_timezones()
            hint = did_you_mean(zone, known) if isinstance(zone, str) else ""
            hint = hint or "; expected a name such as Europe/Berlin"
            if not known:
                hint = "; this system has no time zones: pip install tzdata"
            raise AggregateError(f"window.daily: no time zone {zone!r}{hint}") from None
        return cls(zone)

    def described(self) -> dict[str, Any]:
        return {"window": "daily", "zone": self.zone}

    def slices(self, times: np.ndarray) -> np.ndarray:
        starts = self._days_near(times)
        return starts[np.searchsorted(starts, times, "right") - 1]

    def ends(self, starts: np.ndarray) -> np.ndarray:
        days = self._days_near(starts)
        return days[np.searchsorted(days, starts, "right")]

    def _days_near(self, times: np.ndarray) -> np.ndarray:
        """Where days begin, in order: for each time the last before it, and the next."""
        utc_days = np.unique(times // _DAY)
        # A zone is less than a day away from UTC, a clock change may skip or repeat one more.
        days = np.unique(np.add.outer(utc_days, np.arange(-2, 4)))
        return np.array([_day_start(self.zone, day) for day in days.tolist()], np.int64)


_EPOCH = dt.datetime(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = ((day - _EPOCH).days for day in (dt.datetime.min, dt.datetime.max))


@lru_cache(maxsize=1 << 16)
def _day_start(zone: str, day: int) -> int:
    """The first instant whose date in a zone is that of a day, or a later one.

    ``day`` counts dates from 1970-01-01. Beyond years 1 to 9999 the zone stays as it is there.
    """
    known = min(max(day, _FIRST_DAY), _LAST_DAY)
    midnight = _EPOCH + dt.timedelta(days=known)
    return instant_of(midnight, ZoneInfo(zone)) + (day - known) * _DAY


_KINDS: dict[str, type[Window]] = {kind.words[0]: kind for kind in (Fixed, Sliding, Session, Daily)}


def parse_window(given: Mapping[str, Any]) -> Window:
    """The windows that a job file means, such as ``{"fixed": "1m"}``.

    Raises:
        AggregateError: they cannot be used.
    """
    kinds = list_names(_KINDS)
    if not isinstance(given, Mapping) or not given:
        raise AggregateError(f"window: expected {kinds}, such as fixed: 1m, got {given!r}")
    named = [word for word in _KINDS if word in given]
    if not named:
        word = str(next(iter(given)))
        hint = did_you_mean(word, _KINDS)
        raise AggregateError(f"window: no such kind: {word!r}{hint or f'; expected {kinds}'}")
    kind = _KINDS[named[0]]
    for word in given:
        if word not in kind.words:
            raise AggregateError(f"window: {_misplaced(str(word), kind)}")
    return kind.parse(given)


def _misplaced(word: str, kind: type[Window]) -> str:
    name, *others = kind.words
    if word in _KINDS:
        return f"{name!r} and {word!r} are two kinds of windows; give one"
    hint = did_you_mean(word, others)
    expected = f"beside {name!r} expected {list_names(others) if others else 'nothing'}"
    return f"no such key: {word!r}{hint or f'; {expected}'}"


def parse_duration(text: Any, place: str) -> int:
    """Microseconds of a duration such as ``30s``, ``1m``, ``2h``, ``1d``, ``500ms`` or ``PT1M``.

    Raises:
        AggregateError: not a duration, not positive, or above 100,000 days; the message begins
            with ``place``.
    """
    us = 0
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        us = int(match[1]) * _UNITS[match[2]]
    elif isinstance(text, str) and text.startswith("P"):
        try:
            us = msgspec.convert(text, dt.timedelta) // dt.timedelta(microseconds=1)
        except msgspec.ValidationError:
            us = 0
    if not 0 < us <= _LONGEST_US:
        expected = "expected a duration such as 30s, 1m, 2h, 1d or PT1M, at most 100000d"
        raise AggregateError(f"{place}: {expected}, got {text!r}")
    return us


def join_overlapping(
    ids: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[Groups, np.ndarray, np.ndarray]:
    """Groups of intervals ``[start, end)`` that have one id and overlap, some by way of others.

    Returns:
        The groups, in order of id and time; for each group the interval (its index) that begins
        it; and its end.
    """
    if not len(ids):
        return Groups(ids, 0), ids, ends
    spread_starts, spread_ends = _spread(ids, starts, ends)
    order = np.argsort(spread_starts)
    reached = np.maximum.accumulate(spread_ends[order])
    begins = np.ones(len(ids), bool)
    begins[1:] = spread_starts[order[1:]] >= reached[:-1]
    groups = np.empty(len(ids), np.int64)
    groups[order] = np.cumsum(begins) - 1
    firsts = np.flatnonzero(begins)
    last_ends = np.maximum.reduceat(ends[order], firsts)
    return Groups(groups, len(firsts)), order[firsts], last_ends


def _spread(ids: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends on one line, on which those of an id end before those of the next start."""
    first, last = int(starts.min()), int(ends.max())
    if (last - first) * (int(ids.max()) + 1) >= 1 << 63:
        _, ranks = np.unique(np.concatenate([starts, ends]), return_inverse=True)
        starts, ends = ranks[: len(ids)], ranks[len(ids) :]
        first, last = 0, len(ranks)
    offsets = ids * (last - first) - first
    return starts + offsets, ends + offsets
