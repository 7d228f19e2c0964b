"""The open windows of one aggregate at a commit: closed, given, counted and kept."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...schemas.aggregates.open_windows import (
    Trigger,
    close,
    closing_times,
    given,
    next_end,
    of_one,
)
from ...schemas.aggregates.spec import AggregateSpec
from ...schemas.aggregates.states import merge_states, state_schema
from .. import storage
from ..aggregate import batches_of, shard_of
from ..carry import Carry, HeldFile, Opened, OpenWindows
from ..ledger import Imbalance
from ..plan import Token
from ..receipts import Receipt
from ..tallies import Tally
from ..write.destination import Output
from ..write.formats import BRIEF, FORMATS
from ..write.stage import Hashing, StagedFiles

FAR = 1 << 61
"""A watermark after all times."""
MOST_FILES = 32
"""Files that the states of a shard are kept in at most."""


@dataclass(frozen=True)
class OpenAggregate:
    """An aggregate whose windows stay open from one commit to the next."""

    spec: AggregateSpec
    trigger: Trigger

    @property
    def described(self) -> str:
        """What states of this aggregate can be merged with."""
        return json.dumps(self.spec.described(), separators=(",", ":"), sort_keys=True)


class Given(NamedTuple):
    """What a commit makes of an aggregate: staged results, tallies, and what is kept.

    ``wrong`` says what came that was late, and was not told apart.
    """

    receipts: list[Receipt]
    tallies: list[Tally]
    kept: OpenWindows
    wrong: list[Imbalance]


class NewStates(Protocol):
    """States of one aggregate that came since the commit before."""

    def of_shard(self, shard: int) -> pa.Table:
        """Those of a shard, sealed, of one contribution, each slice and group once."""
        ...


class StagedStates:
    """States in staged files. Those of one shard are in memory at a time."""

    def __init__(self, receipts: Sequence[Receipt], spec: AggregateSpec, shards: int) -> None:
        self._receipts = receipts
        self._spec = spec
        self._shards = shards

    def of_shard(self, shard: int) -> pa.Table:
        tables = [state_schema(self._spec).empty_table()]
        for receipt in self._receipts:
            table = _read(receipt.path, self._spec)
            tables.append(_shard(table, self._spec, shard, self._shards))
        return of_one(pa.concat_tables(tables), self._spec)


class StatesAtHand:
    """States in memory: sealed, of one contribution, each slice and group once."""

    def __init__(self, states: pa.Table, spec: AggregateSpec, shards: int) -> None:
        self._states = states
        self._spec = spec
        self._shards = shards

    def of_shard(self, shard: int) -> pa.Table:
        return _shard(self._states, self._spec, shard, self._shards)


def _shard(states: pa.Table, spec: AggregateSpec, shard: int, shards: int) -> pa.Table:
    if shards == 1:
        return states
    return states.filter(pa.array(shard_of(states, spec, shards) == shard))


class HeldStates:
    """The states of open windows as they were kept last, for a process that commits repeatedly."""

    def __init__(self) -> None:
        self._token = ""
        self._held: dict[tuple[str, int], pa.Table] = {}
        self._next: dict[tuple[str, int], pa.Table] = {}

    def find(self, token: str, name: str, shard: int) -> pa.Table | None:
        """What the commit of a token kept of a shard; ``None`` if that is not known here."""
        return self._held.get((name, shard)) if token and token == self._token else None

    def keep(self, name: str, shard: int, states: pa.Table) -> None:
        """Note what the next commit keeps."""
        self._next[name, shard] = states

    def turn(self, token: str) -> None:
        """Say that the next commit has been made, under this token."""
        self._token, self._held, self._next = token, self._next, {}


def close_windows(
    aggregate: OpenAggregate,
    carry: Carry,
    new: NewStates,
    opened: Iterable[Opened],
    watermark: int,
    output: Output,
    token: Token,
    folder: str,
    states: HeldStates,
) -> Given:
    """Close the windows of an aggregate up to a watermark, shard by shard.

    Args:
        carry: of the commit before.
        new: states of what came since.
        opened: what went into them.
        output, token: what results are staged for.
        folder: where the states of windows that stay open are kept.
        states: those of the commit before, if this process has made it.

    Raises:
        AggregateOverflow: a result does not fit its type.
    """
    spec, trigger = aggregate.spec, aggregate.trigger
    before = carry.aggregates.get(spec.name) or OpenWindows(described=aggregate.described)
    results = StagedFiles(output, token)
    files: list[HeldFile] = []
    wrong: list[Imbalance] = []
    try:
        for shard in range(carry.shards):
            held = states.find(carry.token, spec.name, shard)
            is_known = held is not None
            came = new.of_shard(shard)
            wrong += _beyond_correction(came, aggregate, carry.watermark)
            closed = close(
                held if is_known else read_held(before, shard, aggregate, carry.watermark),
                came,
                spec,
                trigger,
                before=carry.watermark,
                watermark=watermark,
            )
            for batch in batches_of(given(closed, spec, trigger, carry.sequence + 1)):
                results.write(batch)
            states.keep(spec.name, shard, closed.held)
            older = [file for file in before.files if file.shard == shard]
            if is_known and _is_worth_adding(older, came, closed.held):
                files += older
                files += [write_held(came, spec, shard, folder)] if len(came) else []
            elif len(closed.held):
                files.append(write_held(closed.held, spec, shard, folder))
        receipts = results.close()
    except BaseException:
        results.abandon()
        raise
    records, tallies = passed(spec.name, before, opened, watermark)
    kept = OpenWindows(described=aggregate.described, files=tuple(files), records=records)
    return Given(receipts, tallies, kept, wrong)


def _beyond_correction(came: pa.Table, aggregate: OpenAggregate, watermark: int) -> list[Imbalance]:
    """States that no result will ever hold: their windows had been closed before they came."""
    spec, lateness = aggregate.spec, aggregate.trigger.lateness_us
    end = next_end(came, spec)
    if end is None or end + lateness > watermark:
        return []
    groups = int((closing_times(came, spec) + lateness <= watermark).sum())
    reason = "or more: they are too late, and were taken for records that are not"
    return [Imbalance("", spec.name, max(groups, 1), reason)]


def _is_worth_adding(older: Sequence[HeldFile], came: pa.Table, held: pa.Table) -> bool:
    """Whether to keep what came beside what was kept before, rather than write all anew.

    All that is kept is read together, so that it may hold windows that are long closed, and a
    group in several files: up to as many rows again as there are.
    """
    rows = sum(file.rows for file in older) + len(came)
    return bool(older) and len(older) < MOST_FILES and rows <= 2 * len(held) + 1000


def read_held(
    windows: OpenWindows, shard: int, aggregate: OpenAggregate, watermark: int
) -> pa.Table | None:
    """The states of a shard that were kept, as of a watermark; ``None`` if there are none."""
    spec = aggregate.spec
    tables = [_read(file.path, spec) for file in windows.files if file.shard == shard]
    if not tables:
        return None
    table = merge_states(tables, spec)
    kept = closing_times(table, spec) + aggregate.trigger.lateness_us > watermark
    return table.filter(pa.array(kept))


def write_held(states: pa.Table, spec: AggregateSpec, shard: int, folder: str) -> HeldFile:
    """Write states to a file of their own, which stands once what names it does."""
    path = storage.join(folder, f"{spec.name}-{shard}-{uuid.uuid4().hex}.{BRIEF}")
    file = Hashing(storage.open_write(path))
    with storage.named(path, "write"):
        encoder = FORMATS[BRIEF](cast(BinaryIO, file), states.schema)
        for batch in batches_of(states):
            encoder.write(batch)
        encoder.close()
        file.close()
    return HeldFile(path=path, shard=shard, rows=len(states), bytes=file.bytes)


def _read(path: str, spec: AggregateSpec) -> pa.Table:
    with storage.named(path, "read"), storage.open_read(path) as file:
        table = pq.read_table(file, use_threads=False)
    return table.cast(state_schema(spec))


def passed(
    name: str, before: OpenWindows, opened: Iterable[Opened], watermark: int
) -> tuple[dict[str, list[tuple[int, int]]], list[Tally]]:
    """Records in windows that stay open, by source; and tallies of these, of those that were open
    before, and of those that have been given."""
    counts: Counter[tuple[str, int]] = Counter()
    for source, closing in before.records.items():
        counts.update({(source, closes): rows for closes, rows in closing})
    for fact in opened:
        counts[fact.source, fact.closes] += fact.rows
    records: dict[str, list[tuple[int, int]]] = {}
    written: Counter[str] = Counter()
    for (source, closes), rows in sorted(counts.items()):
        if closes <= watermark:
            written[source] += rows
        else:
            records.setdefault(source, []).append((closes, rows))
    kept = OpenWindows(described="", records=records)
    tallies = [Tally(s, "open_before", n, name) for s, n in before.open_records().items()]
    tallies += [Tally(source, "written", n, name) for source, n in written.items()]
    tallies += [Tally(s, "open_after", n, name) for s, n in kept.open_records().items()]
    return records, tallies
