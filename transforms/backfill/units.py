"""Units of a backfill's work: of the records of a span the partial states, written down once.

Below the backfill's folder, ``units/<start>-<end>.json`` says that a unit is done, and names the
files with its states. It is written last: a unit that was interrupted has left nothing that counts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...schemas.aggregates.spec import ROWS, AggregateSpec
from ...schemas.aggregates.states import merge_states, partial_states, state_schema
from .. import storage
from ..aggregate import MAX_STATE_BYTES, Gathering
from ..write.attempts import PATIENCE_SECONDS, Attempts
from .history import History, Seen
from .markers import read_marker
from .parts import Part

FORMAT = "millstream.backfill-unit/1"


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that is done.

    ``seen`` tells its records from others; ``files`` are aggregate → the file of its states, in
    the folder of units.
    """

    format: str = FORMAT
    start: int
    end: int
    seen: Seen
    files: dict[str, str]

    @property
    def part(self) -> Part:
        return Part(self.start, self.end)


class Pace:
    """Holds work back to so many rows a second, if any number is given."""

    def __init__(
        self,
        rows_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rows_per_second
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    def take(self, rows: int) -> None:
        """Wait for what was taken before to be paid for, then take so many rows."""
        if self._rate is None:
            return
        now = self._clock()
        if self._due > now:
            self._sleep(self._due - now)
        self._due = max(self._due, now) + rows / self._rate


class Units:
    """The units of one backfill.

    All methods raise ``StorageError``.

    Args:
        folder: the backfill's own.
    """

    def __init__(self, folder: str) -> None:
        self._folder = storage.join(folder, "units")

    def find(self, part: Part) -> Unit | None:
        """A unit that is done."""
        return read_marker(self._marker(part), Unit, FORMAT)

    def write(
        self, part: Part, seen: Seen, states: Iterable[tuple[AggregateSpec, pa.Table]]
    ) -> Unit:
        """Write down that a unit is done, with its states."""
        before = self.find(part)
        files = {}
        for spec, table in states:
            name = f"{spec.name}-{part.start}-{uuid.uuid4().hex}.parquet"
            path = storage.join(self._folder, name)
            with storage.named(path, "write"), storage.open_write(path) as file:
                pq.write_table(table, file)
            files[spec.name] = name
        unit = Unit(start=part.start, end=part.end, seen=seen, files=files)
        storage.write_replace(self._marker(part), msgspec.json.encode(unit))
        for name in before.files.values() if before else ():
            storage.delete(storage.join(self._folder, name))
        return unit

    def states(self, unit: Unit, spec: AggregateSpec) -> pa.Table:
        """The states of a unit: sealed, of one contribution without a name."""
        path = storage.join(self._folder, unit.files[spec.name])
        with storage.named(path, "read"), storage.open_read(path) as file:
            table = pq.read_table(file, use_threads=False)
        return table.cast(state_schema(spec))

    def delete(self) -> None:
        """Delete all of them."""
        storage.delete_folder(self._folder)

    def _marker(self, part: Part) -> str:
        return storage.join(self._folder, f"{part.start}-{part.end}.json")


@dataclass(frozen=True)
class Work:
    """What a unit's states are made of. Picklable.

    Attributes:
        folder: the backfill's own.
        rows_per_second: how many rows one worker may read.
        patience: seconds for which a service that does not answer is asked again.
    """

    folder: str
    history: History
    specs: tuple[AggregateSpec, ...]
    rows_per_second: float | None = None
    patience: float = PATIENCE_SECONDS

    def __call__(self, part: Part) -> Unit:
        """Do a unit, also if a service does not answer at first. See :meth:`do`."""
        service = self.history.output.destination.service
        return Attempts(self.patience).call(service, lambda: self.do(part))

    def do(self, part: Part) -> Unit:
        """Do a unit, unless it is done and its records are those that are there.

        Raises:
            DestinationError, Unavailable, StorageError: records cannot be read, or states written.
            AggregateOverflow: a state does not fit its type.
            LostRecords: the states do not hold as many records as were read.
        """
        units = Units(self.folder)
        found = units.find(part)
        if found is not None and found.seen == self.history.seen(part):
            return found
        making = [_Making(spec) for spec in self.specs]
        seen, pace = Seen(), Pace(self.rows_per_second)
        for batch in self.history.batches(part):
            pace.take(batch.num_rows)
            seen = seen.with_times(batch.column(self.history.event_time))
            for each in making:
                each.add(batch)
        return units.write(part, seen, [(each.spec, each.states(seen.rows)) for each in making])


class LostRecords(RuntimeError):
    """States hold another number of records than were read: a slip in the arithmetic."""


@dataclass
class _Making:
    """The states of one aggregate, as records come in."""

    spec: AggregateSpec
    gathering: Gathering = field(init=False)

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.spec, MAX_STATE_BYTES)

    def add(self, batch: pa.RecordBatch) -> None:
        states = partial_states(batch, self.spec, open=True)
        self.gathering.add_all(states.combine_chunks().to_batches())

    def states(self, rows: int) -> pa.Table:
        return check_held(merge_states(self.gathering.tables, self.spec), self.spec, rows)


def check_held(states: pa.Table, spec: AggregateSpec, rows: int) -> pa.Table:
    """States, if they hold so many records.

    Raises:
        LostRecords: they do not.
    """
    held = pc.sum(states[ROWS]).as_py() or 0
    if held != rows:
        said = f"the states of {spec.name} hold {held} records, and {rows} were read"
        raise LostRecords(said)
    return states


def needed_columns(specs: Sequence[AggregateSpec]) -> list[str]:
    """The columns of records that aggregates are made of; of expressions there are none yet."""
    names = [spec.event_time for spec in specs]
    for spec in specs:
        names += [key.path.partition(".")[0] for key in spec.keys]
        names += [
            m.metric.field.partition(".")[0]
            for m in spec.metrics
            if m.metric.field and not m.expression
        ]
    return list(dict.fromkeys(names))
