"""Corrected windows: what records that come after their windows were given make of them.

The states of all contributions are kept beside the visible table. Of the windows that new states
touch they are merged once more: so nothing but these windows is computed, and nothing is read but
states.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.aggregates.open_windows import (
    PANES,
    REVISION,
    Closed,
    Trigger,
    close,
    given,
    of_one,
    sessions_around,
)
from ...schemas.aggregates.spec import (
    SESSION_END,
    SLICE_START,
    WINDOW_END,
    WINDOW_START,
    AggregateSpec,
)
from ...schemas.aggregates.states import (
    among,
    finalise,
    merge_states,
    state_schema,
    visible_schema,
)
from ...schemas.aggregates.windows import Session
from ...schemas.table import table_of_schema
from ...schemas.watermarks import FOREVER
from .. import storage
from ..aggregate import batches_of
from ..plan import Token
from ..receipts import Receipt
from ..stored import between, open_stored
from ..stored.files import LiveFile, StoredFiles, live_files
from ..write.destination import Output
from ..write.files import FilesDestination
from ..write.stage import StagedFiles

_ALWAYS = Trigger(lateness_us=FOREVER // 2)
"""A window that was given long ago may be given again."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Corrections(NamedTuple):
    """What is to be committed: staged rows, and files that they take the place of."""

    receipts: list[Receipt]
    withdrawn: tuple[str, ...] = ()


def corrected_output(output: Output, columns: pa.Schema) -> Output:
    """An output of these columns, in which of a window the row of the greatest revision stands."""
    data = table_of_schema(columns, output.tables["data"].key, REVISION)
    return replace(output, tables={**output.tables, "data": data})


def corrected_schema(spec: AggregateSpec, trigger: Trigger, output: Output) -> pa.Schema:
    """The columns of corrected results.

    Files are written anew, as if there had been one run. Elsewhere rows are added, so that they
    say which of them stands: a table that had no revisions has nulls before, which are the least.
    """
    visible = visible_schema(spec)
    if trigger.repeats:
        return pa.schema([*visible, *PANES])
    if isinstance(output.destination, FilesDestination):
        return visible
    return pa.schema([*visible, *(field.with_nullable(True) for field in PANES)])


@dataclass
class Correcting:
    """The corrections of one aggregate.

    Args:
        output: which holds results and states of all that was committed before.
        trigger: when its windows are given as a rule.
        came: states of one contribution (as ``of_one`` seals them), which the output does not hold.
        revision: of the corrected rows, where they carry one; else one greater than all before.
        until: windows that end after this watermark are left out: they have not been given.

    Raises, as all methods do:
        AggregateOverflow: a result does not fit its type.
        DestinationError, Unavailable, StorageError: what the output holds cannot be read.
    """

    output: Output
    spec: AggregateSpec
    trigger: Trigger
    token: Token
    came: pa.Table
    revision: int | None = None
    until: int = FOREVER

    def corrections(self) -> Corrections:
        """The windows that the new states touch, as they are with them, staged."""
        if not len(self.came):
            return Corrections([])
        closed = close(self._held, self.came, self.spec, _ALWAYS, before=FOREVER, watermark=FOREVER)
        panes = {pane: self._ended(table) for pane, table in closed.panes.items()}
        closed = closed._replace(panes=panes)
        staged = StagedFiles(self.output, self.token)
        try:
            withdrawn: tuple[str, ...] = ()
            schema = corrected_schema(self.spec, self.trigger, self.output)
            if REVISION in schema.names:
                revision = self.revision or next_revision(self.output)
                tables = [given(closed, self.spec, _ALWAYS, revision).cast(schema)]
            else:
                withdrawn = tuple(self._without(closed, staged))
                tables = [table for pane, table in closed.panes.items() if pane != "retracted"]
            for table in tables:
                for batch in batches_of(table):
                    staged.write(batch)
            return Corrections(staged.close(), withdrawn)
        except BaseException:
            staged.abandon()
            raise

    def touched_sessions(self) -> pa.Table:
        """The whole sessions that the new states are part of, with all that was committed."""
        if not len(self.came):
            return self.came
        merged = merge_states([self._held, self.came], self.spec)
        return merged.take(pa.array(np.unique(sessions_around(self.came, merged, self.spec))))

    def _ended(self, windows: pa.Table) -> pa.Table:
        if self.until >= FOREVER:
            return windows
        ends = windows[WINDOW_END].combine_chunks().view(pa.int64()).to_numpy()
        return windows.filter(pa.array(ends <= self.until))

    @cached_property
    def _held(self) -> pa.Table:
        """The states of the windows that are touched, of all that was committed."""
        if not isinstance(self.spec.window, Session):
            touched = finalise(self.came, self.spec, merged=True)
            return self._between(_least(touched[WINDOW_START]), _most(touched[WINDOW_END]))
        begin, end = _least(self.came[SLICE_START]), _most(self.came[SESSION_END])
        while True:  # a session that is touched may reach another, which then is touched too
            held = self._between(begin, end)
            both = merge_states([held, self.came], self.spec)
            reached = _least(both[SLICE_START]), _most(both[SESSION_END])
            if reached == (begin, end):
                return held
            begin, end = min(begin, reached[0]), max(end, reached[1])

    def _between(self, begin: int, end: int) -> pa.Table:
        """The states of the groups that came, in slices from one instant to another."""
        wanted = state_schema(self.spec)
        stored = open_stored(self.output, "states", wanted)
        tables = [wanted.empty_table()]
        until = SESSION_END if isinstance(self.spec.window, Session) else SLICE_START
        where = between(SLICE_START, None, _moment(end)) & between(until, _moment(begin), None)
        keys = [key.name for key in self.spec.keys]
        for batch in stored.batches(None, where):
            table = pa.Table.from_batches([batch]).cast(wanted)
            tables.append(table.filter(pa.array(among(table, self.came, keys))) if keys else table)
        return of_one(pa.concat_tables(tables), self.spec)

    def _without(self, closed: Closed, staged: StagedFiles) -> Iterator[str]:
        """Write what is left of files that hold windows which are given anew; gives the files."""
        gone = pa.concat_tables([visible_schema(self.spec).empty_table(), *closed.panes.values()])
        if not len(gone):
            return
        by = [WINDOW_START, WINDOW_END, *(key.name for key in self.spec.keys)]
        to = self.output.destination
        assert isinstance(to, FilesDestination)
        where = between(
            WINDOW_START,
            _moment(_least(gone[WINDOW_START])),
            _moment(_most(gone[WINDOW_START]) + 1),
        )
        for file in live_files(to, "data", self.output.name):
            stored = StoredFiles(to.place, visible_schema(self.spec), [file], to.format)
            found = (pa.Table.from_batches([batch]) for batch in stored.batches(by, where))
            if not any(among(table, gone, by).any() for table in found):
                continue
            for batch in stored.batches():
                table = pa.Table.from_batches([batch]).cast(gone.schema)
                for left in batches_of(table.filter(pa.array(~among(table, gone, by)))):
                    staged.write(left)
            yield _path_in(to, file)


def next_revision(output: Output) -> int:
    """A revision that is greater than all in an output's rows."""
    stored = open_stored(output, "data", pa.schema([(REVISION, pa.int64())]))
    if stored.found is None or not stored.has(REVISION):
        return 1
    greatest = (pc.max(batch.column(0)).as_py() or 0 for batch in stored.batches([REVISION]))
    return 1 + max(greatest, default=0)


def _path_in(to: FilesDestination, file: LiveFile) -> str:
    return file.path.removeprefix(storage.join(to.home, ""))


def _least(column: pa.ChunkedArray) -> int:
    return int(column.combine_chunks().view(pa.int64()).to_numpy().min())


def _most(column: pa.ChunkedArray) -> int:
    return int(column.combine_chunks().view(pa.int64()).to_numpy().max())


def _moment(micros: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=micros)
