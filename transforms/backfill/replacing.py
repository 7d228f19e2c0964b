"""What a part's new windows take the place of: in an output's results, and in its states.

Tables delete a span of time in the transaction that brings the new rows. Files that hold rows of
the span are withdrawn, and what is left of them is written anew, one file for each part that is
still to come, or for some of these together: so that a row is written anew once, or if there are
very many parts twice or three times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...schemas.aggregates.open_windows import REVISION, contributed, of_one, sessions_around
from ...schemas.aggregates.spec import (
    CONTRIBUTION,
    ROWS,
    SESSION_END,
    SLICE_START,
    WINDOW_END,
    WINDOW_START,
    AggregateSpec,
)
from ...schemas.aggregates.states import merge_states, state_schema
from ...schemas.aggregates.windows import Session
from .. import storage
from ..aggregate import batches_of
from ..plan import Token
from ..receipts import Part as Kind
from ..receipts import Receipt, Span, moment
from ..stored import between, open_stored
from ..stored.files import LiveFile, StoredFiles, live_files
from ..stored.formats import READERS
from ..write.destination import Output
from ..write.errors import DestinationError
from ..write.files import FilesDestination
from ..write.stage import StagedFiles
from .compare import has_revisions
from .parts import Part
from .results import micros

MOST_CUTS = 64
"""At how many places what is left is cut at most: all its files are open at a time."""
COLUMNS: dict[Kind, str] = {"data": WINDOW_START, "states": SLICE_START}
"""The columns by which rows belong to a span."""


class Kept(NamedTuple):
    """Up to where rows give way, and those of them that come back: results and states of windows
    that are not the part's."""

    until: int
    visible: pa.Table
    states: pa.Table


def kept_beside(
    output: Output, spec: AggregateSpec, part: Part, new: pa.Table, columns: pa.Schema
) -> Kept:
    """What stays as it is of the span that a part's rows are replaced in.

    The states of a session lie wherever records came for it: those of a part's sessions reach
    beyond the part, and states of others lie between them.

    Args:
        new: the part's new states, of one contribution without a name.
        columns: of results.

    Raises:
        DestinationError, Unavailable, StorageError: what the output holds cannot be read.
    """
    if not isinstance(spec.window, Session):
        empty = _nullable(columns).empty_table(), _nullable(state_schema(spec)).empty_table()
        return Kept(part.end, *empty)
    bare = replace(spec, metrics=())
    sessions = new.select(state_schema(bare).names).cast(state_schema(bare))
    until = _most(sessions, SESSION_END, part.end)
    while True:  # a session that gives way may reach beyond all that was looked at
        held = _states_between(output, spec, part.start, until)
        pieces = held.select(state_schema(bare).names).cast(state_schema(bare))
        old = of_one(pieces, bare)
        begins = micros(old, SLICE_START)
        gone = (begins >= part.start) & ((begins < part.end) | _overlap(old, sessions, bare))
        reached = _most(old.filter(pa.array(gone)), SESSION_END, until)
        if reached == until:
            break
        until = reached
    starts = micros(pieces, SLICE_START)
    stays = (starts >= part.start) & (starts < until)
    if len(pieces):
        stays &= ~gone[sessions_around(pieces, old, bare)]
    visible = _results_between(output, Part(part.end, until), columns)
    apart = ~_overlap(_as_states(visible, bare), sessions, bare)
    return Kept(until, visible.filter(pa.array(apart)), held.filter(pa.array(stays)))


def _states_between(output: Output, spec: AggregateSpec, start: int, end: int) -> pa.Table:
    """States of sessions that lie in part in a span."""
    wanted = state_schema(spec)
    where = between(SLICE_START, None, moment(end)) & between(SESSION_END, moment(start), None)
    batches = open_stored(output, "states", wanted).batches(None, where)
    return pa.Table.from_batches([b.cast(_nullable(wanted)) for b in batches], _nullable(wanted))


def _results_between(output: Output, span: Part, columns: pa.Schema) -> pa.Table:
    columns = _nullable(columns)
    if span.end <= span.start:
        return columns.empty_table()
    where = between(WINDOW_START, moment(span.start), moment(span.end))
    batches = open_stored(output, "data", columns).batches(None, where)
    return pa.Table.from_batches([batch.cast(columns) for batch in batches], columns)


def _as_states(visible: pa.Table, bare: AggregateSpec) -> pa.Table:
    """Sessions that were given, as states of nothing."""
    columns = {
        SLICE_START: visible[WINDOW_START],
        SESSION_END: visible[WINDOW_END],
        **{key.name: visible[key.name] for key in bare.keys},
        CONTRIBUTION: pa.array([""] * len(visible)).dictionary_encode(),
        ROWS: pa.array(np.zeros(len(visible), np.int64)),
    }
    schema = state_schema(bare)
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _overlap(some: pa.Table, others: pa.Table, bare: AggregateSpec) -> np.ndarray:
    """Which sessions have a moment in common with one of others, some by way of further ones."""
    if not len(some) or not len(others):
        return np.zeros(len(some), bool)
    merged = merge_states([contributed(some, bare, ""), contributed(others, bare, "")], bare)
    taken = sessions_around(others, merged, bare)
    return np.isin(sessions_around(some, merged, bare), taken)


def _most(table: pa.Table, column: str, least: int) -> int:
    return int(micros(table, column).max(initial=least))


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


@dataclass(frozen=True)
class Rewriting:
    """The files of an output that hold rows of spans, written anew without them.

    Args:
        columns: of results, where files do not say of which types theirs are.
        edges: where parts begin, in order, and where the last one ends.
        token: what files are staged for.
    """

    output: Output
    columns: pa.Schema
    edges: Sequence[int]
    token: Token

    def without(self, kind: Kind, span: Span) -> tuple[list[Receipt], list[str]]:
        """What is left of files without the rows of a span: staged; and the files themselves.

        Raises:
            DestinationError: a file cannot be written anew without losing a column of it.
            StorageError: one cannot be read, or written.
        """
        to = self.output.destination
        assert isinstance(to, FilesDestination)
        sinks: dict[int, StagedFiles] = {}
        gone: list[str] = []
        try:
            for file in live_files(to, kind, self.output.name):
                stored = self._stored(to, kind, file)
                within = between(span.column, moment(span.start), moment(span.end))
                if not any(True for _ in stored.batches([span.column], within)):
                    continue
                if not gone and kind == "data" and to.format != "parquet":
                    self._refuse_lost_columns(to)
                for bucket, rows in self._left(stored, span):
                    if bucket not in sinks:
                        sinks[bucket] = StagedFiles(self.output, self.token, kind)
                    for batch in batches_of(rows):
                        sinks[bucket].write(batch)
                gone.append(file.path.removeprefix(storage.join(to.home, "")))
            return [receipt for sink in sinks.values() for receipt in sink.close()], gone
        except BaseException:
            for sink in sinks.values():
                sink.abandon()
            raise

    def _left(self, stored: StoredFiles, span: Span) -> Iterator[tuple[int, pa.Table]]:
        """The rows outside of a span, by the file that they come to."""
        schema, cuts = stored.schema, self._cuts(span)
        for batch in stored.batches():
            table = pa.Table.from_batches([batch]).cast(schema)
            starts = micros(table, span.column)
            outside = (starts < span.start) | (starts >= span.end)
            buckets = np.searchsorted(cuts, starts, "right")
            for bucket in np.unique(buckets[outside]).tolist():
                yield bucket, table.filter(pa.array(outside & (buckets == bucket)))

    def _cuts(self, span: Span) -> np.ndarray:
        """Where what is left is cut: where parts begin that are still to come."""
        coming = [edge for edge in self.edges if edge > span.start]
        return np.array(coming[:: len(coming) // MOST_CUTS + 1], np.int64)

    def _stored(self, to: FilesDestination, kind: Kind, file: LiveFile) -> StoredFiles:
        format = "parquet" if kind == "states" else to.format
        reader = READERS[format](to.place, self.columns)
        if format == "parquet":
            own = reader.schema(file.path)
            named = [self.columns.field(name) for name in file.folders if name not in own.names]
            schema = pa.schema([*own, *named], own.metadata)
        else:
            schema = self.columns
        return StoredFiles(to.place, schema, [file], format)

    def _refuse_lost_columns(self, to: FilesDestination) -> None:
        """See that files which do not say the types of their columns have none but those of now."""
        for file in live_files(to, "states", self.output.name):
            with storage.named(file.path, "read"), storage.open_read(file.path) as opened:
                said = (pq.read_schema(opened).metadata or {}).get(b"millstream.aggregate")
            described = json.loads(said) if said else {}
            kinds = ("keys", "metrics")
            names = [each["name"] for kind in kinds for each in described.get(kind, ())]
            if lost := [name for name in names if name not in self.columns.names]:
                raise self._lost(to, lost[0])
        held = live_files(to, "data", self.output.name)
        if held and REVISION not in self.columns.names and has_revisions(self.output):
            raise self._lost(to, REVISION)

    def _lost(self, to: FilesDestination, column: str) -> DestinationError:
        return DestinationError(
            f"{to.place}: its files have the column {column}, which the aggregate has no more, and "
            f"{to.format} does not say its type: its rows cannot be kept. Give the aggregate "
            "another output"
        )
