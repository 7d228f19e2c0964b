"""What is to be made up, and how fast: ``generate://?rate=1000&…``, of the job's own contract.

- ``rate=``: records a second, of all partitions together (1000); as many as are asked for with
  ``rate=0``.
- ``partitions=`` (4), ``seed=`` (0), and ``broken=``: the part of records that break the contract,
  0 to 1 (0.01).
- ``count=``: how many records there are in all. Without it there is no end.
- ``disorder=``: event time is up to so long before the time at which a record is due (5s).
- ``start=``: the time at which the first record is due, as event time has it; else that of the
  job's first run. Records go on from it at their rate, with ``rate=0`` as if it were 1000.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from urllib.parse import urlencode

from ..errors import SourceError
from ..options import duration_us, given_options, moment_of, naming

SCHEME = "generate"
OPTIONS = ("rate", "partitions", "broken", "seed", "count", "disorder", "start")
ENDLESS = 1 << 60
"""As many records as no stream has."""

_NOMINAL_RATE = 1000.0
_MOST_PARTITIONS = 1000
_MOST_RATE = 1e9
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class GeneratedInput:
    """What is to be made up. ``start_us`` are microseconds since 1970-01-01 UTC."""

    rate: float = _NOMINAL_RATE
    partitions: int = 4
    broken: float = 0.01
    seed: int = 0
    count: int | None = None
    disorder_us: int = 5_000_000
    start_us: int | None = None

    @property
    def identity(self) -> str:
        """What decides the record of a position. How many there are does not."""
        said = {
            "rate": self.rate,
            "partitions": self.partitions,
            "broken": self.broken,
            "seed": self.seed,
            "disorder_us": self.disorder_us,
            "start_us": "" if self.start_us is None else self.start_us,
        }
        return urlencode(said)

    @property
    def spacing_us(self) -> float:
        """Microseconds of event time from one record to the next."""
        return 1e6 / (self.rate or _NOMINAL_RATE)

    def due(self, began_us: int, now_us: int) -> int:
        """How many records are due, of all partitions, of a stream that began at a time."""
        most = ENDLESS if self.count is None else self.count
        if not self.rate:
            return most
        return min(max(int((now_us - began_us) * self.rate / 1e6), 0), most)

    def due_of(self, partition: int, due: int) -> int:
        """How many of the records that are due are a partition's: they take turns."""
        return max(-(-(due - partition) // self.partitions), 0)

    def source_name(self, partition: int) -> str:
        """What rows of a partition have as their ``_source``."""
        return f"{SCHEME}:{partition}"


def parse_input(uri: str) -> GeneratedInput:
    """What a URI says.

    Raises:
        SourceError: an option cannot be used.
    """
    scheme, _, rest = uri.partition("://")
    address, _, query = rest.partition("?")
    if scheme != SCHEME or address.strip("/"):
        raise SourceError(
            f"{uri.partition('?')[0]}: records are made up by the job's contract; write "
            f"{SCHEME}://?rate=1000"
        )
    with naming(scheme):
        given = given_options(query, OPTIONS)
        plain = GeneratedInput()
        count = given.get("count")
        start = given.get("start")
        return GeneratedInput(
            rate=_number("rate", given.get("rate", plain.rate), _MOST_RATE),
            partitions=_whole("partitions", given.get("partitions", "4"), 1, _MOST_PARTITIONS),
            broken=_number("broken", given.get("broken", plain.broken), 1),
            seed=_whole("seed", given.get("seed", "0"), 0, ENDLESS),
            count=None if count is None else _whole("count", count, 0, ENDLESS),
            disorder_us=_duration(given.get("disorder", "5s")),
            start_us=None if start is None else _moment(start),
        )


def _number(option: str, said: str | float, most: float) -> float:
    try:
        number = float(said)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise SourceError(f"{option}={said}: expected a number from 0 to {most:g}")
    return number


def _whole(option: str, said: str, least: int, most: int) -> int:
    number = int(said) if said.isascii() and said.isdigit() else -1
    if not least <= number <= most:
        upto = f" to {most}" if most < ENDLESS else " on"
        raise SourceError(f"{option}={said}: expected a whole number from {least}{upto}")
    return number


def _duration(said: str) -> int:
    if said in ("0", "0s"):
        return 0
    return duration_us("disorder", said)


def _moment(said: str) -> int:
    hint = ": expected a time as 2026-11-29T12:00:00Z; without it, it is now"
    moment = moment_of("start", said, hint)
    return (moment - _EPOCH) // _MICROSECOND
