"""Reading the shards of a stream: several at a time, parents before their children."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pyarrow as pa

from ....schemas.arrow import PAYLOADS
from ...carry import SourceState
from ..errors import Unavailable
from ..streams.source import Polled, StreamReader
from .carried import KinesisCarried
from .client import CONNECTIONS, DONE, Kinesis, Shard
from .fetching import OpenShard
from .inputs import KinesisInput, shard_of

ROWS = 50_000
"""Records of a batch of :meth:`KinesisReader.until`, about."""
PATIENCE_SECONDS = 60.0
"""How long :meth:`KinesisReader.until` waits for a service that does not answer."""
DISCOVER_SECONDS = 10.0
"""How often it is asked whether there are new shards, besides when one has ended."""
_TICK_SECONDS = 0.1


class KinesisReader(StreamReader):
    """Reads shards; to be used in a ``with`` block.

    A shard whose parents are read here too is begun when they are done.

    Args:
        states: where the shards stand, by source.
        done: shards that were read to their end before.
    """

    def __init__(
        self, input: KinesisInput, states: Mapping[str, SourceState], done: Collection[str]
    ) -> None:
        self._input = input
        self._client = Kinesis(input)
        self._threads = ThreadPoolExecutor(CONNECTIONS, "millstream-kinesis")
        self._shards = self._client.shards()
        self._done = {*done, *(shard_of(s) for s, v in states.items() if v.cursor == DONE)}
        self._open = {
            source: OpenShard(self._client, source, shard_of(source), state.next, state.cursor)
            for source, state in states.items()
        }
        self._held: set[str] = set()
        self._discovered = time.monotonic()
        self._has_ended = True

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def poll(self, rows: int, seconds: float) -> Polled | None:
        return self._poll([s for s in self._open if s not in self._held], rows, seconds)

    def until(self, ends: Mapping[str, int]) -> Iterator[Polled]:
        """All that the shards hold, or about up to an end; to those that are closed, their end."""
        heard = time.monotonic()
        left = [source for source in ends if not self._waits_for_others(source)]
        while left:
            if polled := self._poll(left, ROWS, _TICK_SECONDS):
                yield polled
            open = [self._open[source] for source in left]
            faults = [shard.fault for shard in open if shard.fault]
            if not faults:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE_SECONDS:
                raise faults[0]
            left = [s.source for s in open if not s.is_at_end and s.next < ends[s.source]]

    def at_end(self) -> set[str]:
        return {source for source, shard in self._open.items() if shard.is_at_end}

    def hold(self, sources: set[str]) -> None:
        self._held = sources

    def discover(self) -> dict[str, int]:
        now = time.monotonic()
        if not self._has_ended and now - self._discovered < DISCOVER_SECONDS:
            return {}
        self._discovered = now
        try:
            self._shards = self._client.shards()
        except Unavailable:
            return {}  # reading will tell, if it lasts
        self._has_ended = False
        found: dict[str, int] = {}
        for name, shard in self._shards.items():
            source = self._input.source_name(name)
            if source not in self._open and self._done.issuperset(shard.parents):
                self._open[source] = OpenShard(self._client, source, name, 0, "")
                found[source] = 0
        return found

    def _poll(self, sources: Collection[str], rows: int, seconds: float) -> Polled | None:
        deadline = time.monotonic() + seconds
        while True:
            open = [self._open[source] for source in sources if not self._waits(source)]
            coming = [future for shard in open if (future := shard.fetch(self._threads))]
            if not any(shard.is_ready for shard in open):
                _wait(coming, min(deadline - time.monotonic(), _TICK_SECONDS))
            for shard in open:
                shard.look()
            if polled := self._taken(open, rows):
                return polled
            if time.monotonic() >= deadline:
                return None

    def _waits(self, source: str) -> bool:
        """Whether a shard has parents that are not done."""
        shard = self._shards.get(shard_of(source))
        return shard is not None and not self._done.issuperset(shard.parents)

    def _waits_for_others(self, source: str) -> bool:
        """Whether a shard has to wait for a shard that is not read here."""
        here = {shard_of(name) for name in self._open} | self._done
        return not here.issuperset(_ancestors(shard_of(source), self._shards))

    def _taken(self, open: Collection[OpenShard], rows: int) -> Polled | None:
        """What is there, of as many shards as make so many rows."""
        taken: list[tuple[OpenShard, int, Any]] = []
        count = 0
        for shard in open:
            if shard.is_ready and count < rows:
                begin, records = shard.next, shard.take()
                taken.append((shard, begin, records))
                count += len(records)
        if not taken:
            return None
        for shard, _, _ in taken:
            if shard.is_done:
                self._done.add(shard.shard)
                self._has_ended = True
        return Polled(
            _batch([(s.source, begin, records) for s, begin, records in taken]),
            {shard.source: shard.next for shard, _, _ in taken},
            {shard.source: shard.cursor for shard, _, _ in taken},
            carried=KinesisCarried({s.source: (begin, records) for s, begin, records in taken}),
        )


def _batch(taken: Collection[tuple[str, int, Any]]) -> pa.RecordBatch:
    """Records of several shards as one batch."""
    sizes = [len(records) for _, _, records in taken]
    names = pa.array([source for source, _, _ in taken], pa.string())
    numbers = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    positions = [np.arange(begin, begin + len(records)) for _, begin, records in taken]
    payloads = [record["Data"] for _, _, records in taken for record in records]
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(numbers), names),
        pa.array(np.concatenate(positions).astype(np.int64)),
        pa.array(payloads, pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)


def _ancestors(shard: str, shards: Mapping[str, Shard]) -> set[str]:
    """The shards that are to be read before a shard, as far as they are there."""
    found: set[str] = set()
    left = [shard]
    while left:
        if (known := shards.get(left.pop())) is not None:
            new = set(known.parents) - found
            found |= new
            left += new
    return found


def _wait(coming: Collection[Future[Any]], seconds: float) -> None:
    if seconds <= 0:
        return
    if coming:
        wait(coming, seconds, FIRST_COMPLETED)
    else:
        time.sleep(min(seconds, 0.05))
