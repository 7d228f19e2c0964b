"""Destinations that are tables (or topics) of a service: what is common to all of them.

Rows are staged as Parquet files in the run's own folder, whatever the service. A destination adds
one verb, :meth:`TableDestination.load`: *make these rows visible, and hold the token, in one
transaction*. Options, staging, names, tokens, refusals, retries and tidying are here and above.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn
from urllib.parse import parse_qsl, urlencode

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...schemas.arrow import IDENTITY
from ...schemas.contract import Field
from ...schemas.problems import did_you_mean, list_names
from ...schemas.table import Table, table_of_schema
from .. import storage
from ..plan import Token
from ..receipts import Part, Receipt, Span
from .destination import Commit, Committed, Destination
from .errors import CommitConflict, DestinationError, Taken
from .formats import BRIEF
from .layout import Layout
from .partitions import Partition, check_partitions, parse_partitions

Mode = Literal["append", "upsert", "replace"]
"""``append``: rows are added. ``upsert``: of rows with one key, the one with the greatest event
time and position stands. ``replace``: the partitions that rows fall into hold these rows alone."""

STATES_SUFFIX = "__states"
"""What the name of the table of partial states ends in."""
ROW = "_row"
"""The number of a row among all rows of a load, from 0; see :meth:`Load.reader`."""
HELD_FORMAT = "millstream.held/1"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination stores with a commit, as JSON text, under the table and the run id.

    ``rows`` are the visible table's rows that the commit brought (refused rows are not among them);
    ``refused`` names the file of refused rows in the run's folder.
    """

    format: str = HELD_FORMAT
    token: str
    digest: str
    rows: int
    refused: str = ""

    def to_json(self) -> str:
        """The text to store."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Held:
        """What :meth:`to_json` gave.

        Raises:
            DestinationError: it is not, or is of a later version.
        """
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise DestinationError(f"what the destination holds is no token: {error}") from error
        if found.format != HELD_FORMAT:
            raise DestinationError(f"the destination holds a token of format {found.format!r}")
        return found


@dataclass(frozen=True)
class Options:
    """What the query of a table's URI says."""

    mode: Mode = "append"
    partition_by: tuple[Partition, ...] = ()
    deleted: str | None = None
    own: Mapping[str, str] = field(default_factory=dict)

    def query(self) -> str:
        """The query that says this; empty for the defaults."""
        said = {
            "mode": self.mode if self.mode != "append" else "",
            "partition_by": ",".join(map(str, self.partition_by)),
            "deleted": self.deleted or "",
            **self.own,
        }
        return urlencode({key: value for key, value in said.items() if value}, safe=",()/:@")

    def at(self, place: str) -> str:
        """The URI of a place with these options."""
        query = self.query()
        return f"{place}?{query}" if query else place


@contextmanager
def naming(scheme: str) -> Iterator[None]:
    """Say of what is wrong with a query in the block which scheme's it is."""
    try:
        yield
    except DestinationError as error:
        raise DestinationError(f"{scheme}: {error}") from None


def parse_options(query: str, modes: Sequence[Mode], own: Sequence[str] = ()) -> Options:
    """The options of a query such as ``mode=upsert&deleted=gone``.

    Args:
        modes: what the destination can do.
        own: options that only this destination has; their values are not looked at here.

    Raises:
        DestinationError: an option is unknown, there twice, or its value cannot be used.
    """
    known = ("mode", "partition_by", "deleted", *own)
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            hint = did_you_mean(key, known) or f"; expected {list_names(known)}"
            raise DestinationError(f"no option {key!r}{hint}")
        if key in given:
            raise DestinationError(f"option {key!r} is there twice")
        given[key] = value
    mode = given.pop("mode", "append")
    if mode not in modes:
        hint = did_you_mean(mode, modes) or f"; expected {list_names(modes)}"
        raise DestinationError(f"no mode {mode!r}{hint}")
    by = given.pop("partition_by", "")
    deleted = given.pop("deleted", "") or None
    if mode == "replace" and not by:
        raise DestinationError("mode=replace replaces partitions: say partition_by=date(ts) or so")
    if deleted and mode != "upsert":
        raise DestinationError("deleted marks rows that mode=upsert deletes")
    return Options(mode, parse_partitions(by) if by else (), deleted, given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Load:
    """The rows of one part of an output, staged, and the table that they go to.

    Attributes:
        name: the table's name, as the destination's URI has it, with a suffix for states.
        table: its columns; for ``upsert`` with ``_source`` and ``_position``, if rows have them.
        key: with ``upsert``, what tells rows apart; else empty.
        order: with ``upsert``, the columns whose greatest values win, the weightiest first; nulls
            are least. Without any, what is committed later wins.
        deleted: with ``upsert``, the Boolean column that marks a row to delete.
        partition_by: for ``replace``, and for tables that are laid out by partitions.
        receipts: the staged files, always in one order.
        replaces: rows that are deleted before these come, in the same transaction.
    """

    name: str
    part: Part
    table: Table
    mode: Mode
    key: tuple[str, ...]
    order: tuple[str, ...]
    deleted: str | None
    partition_by: tuple[Partition, ...]
    receipts: tuple[Receipt, ...]
    replaces: Span | None = field(default=None, kw_only=True)

    @property
    def rows(self) -> int:
        """Rows that are staged."""
        return sum(receipt.rows for receipt in self.receipts)

    @property
    def schema(self) -> pa.Schema:
        """The schema of :meth:`batches`: the table's own."""
        return self.table.schema

    def batches(
        self, *, numbered: bool = False, without: Sequence[int] | Any = ()
    ) -> Iterator[pa.RecordBatch]:
        """The rows, some ten thousand at a time, in an order that is always the same.

        Args:
            numbered: add the column :data:`ROW`.
            without: numbers of rows (sorted) that are left out.

        Raises:
            StorageError: a staged file cannot be read.
        """
        schema = self._schema(numbered)
        gone = pa.array(without, pa.int64()) if len(without) else None
        number = 0
        for receipt in self.receipts:
            with storage.named(receipt.path, "read"), storage.open_read(receipt.path) as file:
                stored = pq.ParquetFile(file, pre_buffer=False)
                names = [n for n in self.schema.names if n in stored.schema_arrow.names]
                for batch in stored.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                    rows = pa.array(np.arange(number, number + batch.num_rows))
                    number += batch.num_rows
                    yield from _shaped(batch, rows, schema, gone)

    def reader(
        self, *, numbered: bool = False, without: Sequence[int] | Any = ()
    ) -> pa.RecordBatchReader:
        """:meth:`batches` as a stream that Arrow's C interface understands."""
        return pa.RecordBatchReader.from_batches(
            self._schema(numbered), self.batches(numbered=numbered, without=without)
        )

    def _schema(self, numbered: bool) -> pa.Schema:
        return self.schema.append(pa.field(ROW, pa.int64(), False)) if numbered else self.schema


class Refused(NamedTuple):
    """Refused rows: the name of their file in the run's folder, and how many they are."""

    name: str
    rows: int


def held_by(commit: Commit, loads: Sequence[Load], refused: Refused | None = None) -> Held:
    """What a destination has to hold when it commits."""
    rows = sum(load.rows for load in loads if load.part == "data")
    return Held(
        token=str(commit.token),
        digest=commit.digest,
        rows=rows - (refused.rows if refused else 0),
        refused=refused.name if refused else "",
    )


BATCH_ROWS = 65_536


def _shaped(
    batch: pa.RecordBatch, rows: pa.Array, schema: pa.Schema, gone: pa.Array | None
) -> Iterator[pa.RecordBatch]:
    columns = []
    for column in schema:
        if column.name == ROW:
            columns.append(rows)
        elif column.name in batch.schema.names:
            values = batch.column(column.name)
            columns.append(values if values.type == column.type else values.cast(column.type))
        else:
            columns.append(pa.nulls(batch.num_rows, column.type))
    shaped = pa.RecordBatch.from_arrays(columns, schema=schema)
    if gone is not None:
        import pyarrow.compute as pc

        shaped = shaped.filter(pc.invert(pc.is_in(rows, gone)))
    if shaped.num_rows:
        yield shaped


@dataclass(frozen=True)
class TableDestination(Destination):
    """A table of a service.

    A destination sets the class attributes, and has :meth:`load`, :meth:`held`, :meth:`examine`.
    All three may raise :class:`Unavailable` (they are called again), :class:`DestinationError`
    (they are not), and nothing else that a user can cause.

    Attributes:
        location: what the URI says before its query, made absolute: the ``place``.
        target: the table's name, as the service knows it.
        options: what the URI's query says.
        state: the folder that millstream keeps its own files in; rows are staged below it.
    """

    uri: str
    name: str
    location: str
    target: str
    options: Options = Options()
    state: str = ""

    modes: ClassVar[tuple[Mode, ...]] = ("append", "upsert", "replace")
    refuses: ClassVar[bool] = False
    """Whether single rows may be refused: then rows are staged with their source bytes."""
    replaces_spans: ClassVar[bool] = False
    """Whether :meth:`load` deletes the rows that a load replaces."""
    format = BRIEF
    layout = Layout()

    @property
    def place(self) -> str:
        return self.location

    @property
    def home(self) -> str:
        if not self.state:
            raise DestinationError(
                f"{self.place} needs a folder to stage rows in: say where, with state: DIR"
            )
        return self.state

    @property
    def staging(self) -> str:
        return storage.join(self.home, "_millstream", "staging")

    @abstractmethod
    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        """Make the rows visible and hold the token, in one transaction of the service.

        Each load's table is made, or gets the columns that it lacks, even if there are no rows.
        Then either everything has happened or nothing has, whatever fails or dies in between; if it
        may be called again, it has happened once. Where two tables cannot be one transaction,
        ``loads`` are committed in their order, each holding the token, ``data`` last.

        What to hold is :func:`held_by`'s JSON; rows that the service refuses are given to
        :func:`refuse` beforehand, and the rest are loaded.

        Raises:
            Taken: the run id is held already: somebody else committed meanwhile.
        """

    @abstractmethod
    def held(self, run_id: str) -> Held | None:
        """What is held for a run id, ``None`` if nothing is or the table does not exist."""

    @abstractmethod
    def examine(self, load: Load) -> None:
        """See, before a run, whether the service answers and the load's table can be made or
        takes the rows; changes nothing. ``load`` has no rows.

        Raises:
            TableMismatch: the table cannot take the rows.
        """

    def forget(self, before: float, keep: Sequence[str]) -> int:
        """Delete held tokens older than a time (seconds since the epoch), save of runs ``keep``.

        Gives how many. Nothing where a service forgets by itself, or never.
        """
        return 0

    def old_tokens(self, before: float) -> list[str] | None:
        """The run ids of the held tokens that are older than a time (seconds since the epoch).

        ``None`` where the service cannot say: then :meth:`forget` is not called.
        """
        return None

    def expire(
        self, table: str, column: str, before: float, *, dry_run: bool = False
    ) -> int | None:
        """Delete the rows whose time stamp in a column is before a time; gives how many.

        Args:
            table: ``target``, or ``target`` with a suffix; it need not exist.
            before: seconds since the epoch.
            dry_run: only count the rows.

        ``None`` where the service does not delete rows by their age, and nothing is deleted.
        """
        return None

    def check_tables(self, tables: Mapping[Part, Table]) -> None:
        for load in self._loads(tables, ()):
            self.examine(load)

    def commit(self, commit: Commit) -> None:
        if commit.replaces and not self.replaces_spans:
            raise DestinationError(f"{self.place}: rows of a span of time cannot be replaced there")
        held = self.held(commit.token.run_id)
        if held is None:
            loads = self._loads(commit.tables or _found(commit), commit.receipts)
            loads = [dataclasses.replace(x, replaces=commit.replaces.get(x.part)) for x in loads]
            try:
                self.load(commit, loads)
            except Taken:
                held = self.held(commit.token.run_id)
        if held is not None and (held.token, held.digest) != (str(commit.token), commit.digest):
            self._refuse(held, commit.token)
        staged = storage.join(self.staging, commit.token.run_id)
        storage.delete_folder(storage.join(staged, self.name))
        storage.delete_empty_folder(staged)

    def committed(self, run_id: str) -> Committed | None:
        held = self.held(run_id)
        return held and Committed(Token.parse(held.token), held.digest, held.rows, held.refused)

    def refuse_replacing(self, run_id: str) -> None:
        held = self.held(run_id)
        if held is not None:
            self._refuse(held, None)

    def _refuse(self, held: Held, token: Token | None) -> NoReturn:
        what = "other content" if token and held.token == str(token) else "another plan"
        run_id = Token.parse(held.token).run_id
        raise CommitConflict(
            f"output {self.name!r} already holds run {run_id} with {what} ({held.rows} rows, in "
            f"{self.place}), and a table's rows cannot be replaced; give this run another run id"
        )

    def _loads(self, tables: Mapping[Part, Table], receipts: Sequence[Receipt]) -> list[Load]:
        # States first: where the two are not one transaction, no result is ever without them.
        return [
            self._load(part, tables[part], [r for r in receipts if r.part == part])
            for part in ("states", "data")
            if part in tables
        ]

    def _load(self, part: Part, table: Table, receipts: Sequence[Receipt]) -> Load:
        ordered = tuple(sorted(receipts, key=lambda r: (r.sha256, r.path)))
        if part == "states":
            name = f"{self.target}{STATES_SUFFIX}"
            return Load(name, part, self._storable(table), "append", (), (), None, (), ordered)
        options = self.options
        key, order = (), ()
        if options.mode == "upsert":
            key, order = self._key(table), (table.event_time,) if table.event_time else ()
            if table.has_identity:
                table, order = table.ordered(), (*order, *IDENTITY[:2])
        _check_deleted(options.deleted, table)
        check_partitions(options.partition_by, table.schema)
        return Load(
            self.target, part, table, options.mode, key, order, options.deleted,
            options.partition_by, ordered,
        )  # fmt: skip

    def holds_decimal(self, precision: int, scale: int) -> bool:
        """Whether the service has decimals of so many digits, so many of them after the point."""
        return precision <= 38

    def _storable(self, table: Table) -> Table:
        """The table with decimals as text where they are too long for the service: sums in states
        have up to 76 digits, and millstream alone reads them."""
        fields = tuple(
            Field(f.name, "string", f.required)
            if f.type == "decimal" and not self.holds_decimal(f.precision, f.scale)
            else f
            for f in table.fields
        )
        return dataclasses.replace(table, fields=fields)

    def _key(self, table: Table) -> tuple[str, ...]:
        if not table.key:
            raise DestinationError(
                f"mode=upsert needs a key, and what goes to {self.place} has none: give the "
                "contract a primaryKey"
            )
        return table.key


def _check_deleted(name: str | None, table: Table) -> None:
    if name is None:
        return
    names = [field.name for field in table.fields if field.type == "boolean"]
    if name not in names:
        hint = did_you_mean(name, names) or (f"; there are {list_names(names)}" if names else "")
        raise DestinationError(f"deleted={name}: no such Boolean column{hint}")


def _found(commit: Commit) -> dict[Part, Table]:
    """The tables of rows whose pipeline told none: what the staged files hold."""
    found: dict[Part, Table] = {}
    for receipt in commit.receipts:
        if receipt.part not in found:
            with storage.named(receipt.path, "read"), storage.open_read(receipt.path) as file:
                schema = pq.read_schema(file)
            fields = [f for f in schema if f.name not in IDENTITY]
            try:
                found[receipt.part] = table_of_schema(pa.schema(fields))
            except TypeError as error:
                raise DestinationError(str(error)) from None
    return found
