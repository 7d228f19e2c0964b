"""A table of an Iceberg catalog, whatever catalog pyiceberg knows.

``iceberg:CATALOG/NAMESPACE.TABLE?mode=…``. New columns, rows and token are one commit of the table;
the token is a property of its snapshot, so that it is held for as long as the table keeps the
snapshot: keep snapshots for longer than a run may be started again. A snapshot that the table was
rolled back from holds nothing. Results and their partial states, and rows and their deletions, are
two tables: the second of each pair is committed first, and holds the token too.

Upserts read the keys of all data files that may have some of the load's, and write those anew that
do. What is deleted is remembered, key and order, in the table ``TABLE__deleted``, for good: whoever
knows that nothing older can come may empty it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.expressions import LessThan
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from ..deletions import DELETED_SUFFIX, deletions_of
from ..destination import Commit
from ..errors import CommitConflict, DestinationError, Taken, Unavailable
from ..tables import Held, Load, TableDestination, held_by, naming, parse_options
from .catalog import check_namespace, opened
from .changes import Append, Change, Files, Upsert
from .replace import Replace, ReplaceSpan
from .schema import add_columns, missing, wanted_partitions, wanted_schema

HELD = "millstream.held."
"""What the name of the snapshot's property begins with; the run id follows."""
ATTEMPTS = 20
"""How often a commit is tried that others come before."""


@dataclass(frozen=True)
class IcebergDestination(TableDestination):
    """The table ``target`` of ``catalog``."""

    catalog: str = ""

    replaces_spans: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"iceberg:{self.catalog}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        held = held_by(commit, loads)
        with opened(self.catalog, self.place) as catalog:
            check_namespace(catalog, self.target, self.place)
            for load in loads:
                self._check_fits(catalog, load)
            for load in loads:
                deletions = deletions_of(load)
                if deletions and next(deletions.batches(), None):
                    self._commit(catalog, commit.token.run_id, deletions, held)
                self._commit(catalog, commit.token.run_id, load, held)

    def held(self, run_id: str) -> Held | None:
        with opened(self.catalog, self.place) as catalog:
            table = _find(catalog, self.target)
            return _held_in(table.metadata, run_id) if table else None

    def examine(self, load: Load) -> None:
        wanted_partitions(load, wanted_schema(load))
        with opened(self.catalog, self.place) as catalog:
            check_namespace(catalog, self.target, self.place)
            self._check_fits(catalog, load)

    def expire(self, table: str, column: str, before: float, *, dry_run: bool = False) -> int:
        moment = dt.datetime.fromtimestamp(before, dt.UTC).isoformat()
        old: Any = LessThan(column, moment)  # pyright: ignore[reportCallIssue] : pydantic's
        with opened(self.catalog, f"iceberg:{self.catalog}/{table}") as catalog:
            found = _find(catalog, table)
            rows = found.scan(old, selected_fields=(column,)).count() if found else 0
            if found and rows and not dry_run:
                found.delete(old)
            return rows

    def _check_fits(self, catalog: Catalog, load: Load) -> None:
        """See whether the tables that a load's rows go to, if they are there, take them."""
        for one in filter(None, (load, deletions_of(load))):
            if table := _find(catalog, one.name):
                missing(one, table)

    def _commit(self, catalog: Catalog, run_id: str, load: Load, held: Held) -> None:
        """Bring a load into its table, once.

        Raises:
            Taken: the token is held by the very table that it is asked of.
        """
        change = self._change(catalog, run_id, load)
        for _ in range(ATTEMPTS):
            table = _made(catalog, load)
            found = _held_in(table.metadata, run_id)
            if found is not None and self._is_done(load, found, held):
                return change.abandon()
            if _attempt(table, load, change, {HELD + run_id: held.to_json()}):
                return
        change.abandon()
        raise Unavailable(f"{self.place}: others committed before us {ATTEMPTS} times")

    def _change(self, catalog: Catalog, run_id: str, load: Load) -> Change:
        if load.replaces:
            return ReplaceSpan(load, run_id, load.replaces)
        match load.mode:
            case "upsert":
                return Upsert(load, run_id, lambda: _find(catalog, f"{load.name}{DELETED_SUFFIX}"))
            case "replace":
                return Replace(load, run_id)
        return Append(load, run_id)

    def _is_done(self, load: Load, found: Held, held: Held) -> bool:
        """Whether what a table holds of the run leaves nothing to do."""
        if load.name == self.target:
            raise Taken
        if (found.token, found.digest) == (held.token, held.digest):
            return True
        if load.part == "states":
            raise CommitConflict(
                f"output {self.name!r}: {load.name} already holds this run with other content, and "
                f"{self.target} does not hold it (in {self.place}); give this run another run id"
            )
        return False  # deletions that were noted and not carried out: to them, others are added


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> IcebergDestination:
    """The destination of ``iceberg:CATALOG/NAMESPACE.TABLE?mode=…``.

    Raises:
        DestinationError: no catalog or no table is named, or an option cannot be used.
    """
    said, _, query = rest.partition("?")
    if "@" in said or ":" in said:
        # What is said may hold a password: it stays out of the message.
        raise DestinationError(
            f"{scheme}: names a catalog, not its address: write {scheme}:CATALOG/NAMESPACE.TABLE, "
            "and give address and secrets to pyiceberg (.pyiceberg.yaml, PYICEBERG_CATALOG__…)"
        )
    catalog, _, target = said.partition("/")
    if not catalog or "/" in target or target.count(".") < 1 or not all(target.split(".")):
        raise DestinationError(
            f"{scheme}:{said} names no table; write {scheme}:CATALOG/NAMESPACE.TABLE"
        )
    with naming(scheme):
        options = parse_options(query, IcebergDestination.modes)
    place = f"{scheme}:{catalog}/{target}"
    uri = options.at(place)
    return IcebergDestination(uri, name, place, target, options, state, catalog)


def _find(catalog: Catalog, name: str) -> IcebergTable | None:
    try:
        return catalog.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError):
        return None


def _made(catalog: Catalog, load: Load) -> IcebergTable:
    """The load's table; it is made if there is none."""
    if table := _find(catalog, load.name):
        return table
    schema = wanted_schema(load)
    try:
        return catalog.create_table(
            load.name, schema, partition_spec=wanted_partitions(load, schema)
        )
    except TableAlreadyExistsError:
        return catalog.load_table(load.name)


def _attempt(table: IcebergTable, load: Load, change: Change, properties: dict[str, str]) -> bool:
    """Commit a change to the table as it is now; ``False`` if another commit was first."""
    # pyiceberg would try again by itself, and not look for the token before it does.
    table.metadata.properties[TableProperties.COMMIT_NUM_RETRIES] = "0"
    transaction = table.transaction()
    try:
        if columns := missing(load, table):
            update = transaction.update_schema()
            add_columns(update, columns)
            update.commit()
        files = change.plan(transaction.table_metadata, table.io)
        _stage(transaction, files, properties)
    except BaseException:
        change.abandon()
        raise
    # From here on it is not known what has happened, unless it is said: no file is deleted.
    try:
        transaction.commit_transaction()
    except (CommitFailedException, ValidationException):
        return False
    return True


def _stage(transaction: Transaction, files: Files, properties: dict[str, str]) -> None:
    update = transaction.update_snapshot(snapshot_properties=properties)
    merges = transaction.table_metadata.properties.get(TableProperties.MANIFEST_MERGE_ENABLED)
    if files.gone:
        snapshot = update.overwrite()
    else:
        snapshot = update.merge_append() if merges == "true" else update.fast_append()
    for file in files.gone:
        snapshot.delete_data_file(file)
    for file in files.added:
        snapshot.append_data_file(file)
    snapshot.commit()


def _held_in(metadata: TableMetadata, run_id: str) -> Held | None:
    """What the table holds of a run."""
    for snapshot in _history(metadata):
        if snapshot.summary and (text := snapshot.summary[HELD + run_id]):
            return Held.from_json(text)
    return None


def _history(metadata: TableMetadata) -> Iterator[Snapshot]:
    """The snapshots that led to the table as it is, the newest first.

    Where one of them is expired, all that are older count: which of those led to it is not known.
    """
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    snapshot = metadata.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = by_id.get(snapshot.parent_snapshot_id or 0)
        if parent is None and not _is_first(snapshot):
            older = [s for s in metadata.snapshots if s.timestamp_ms < snapshot.timestamp_ms]
            yield from sorted(older, key=lambda s: s.timestamp_ms, reverse=True)
        snapshot = parent


def _is_first(snapshot: Snapshot) -> bool:
    """Whether there was nothing before. A snapshot whose parent is expired may say that it has
    none, but not that it is the table's first change; in tables of version 1 changes have no
    numbers."""
    return snapshot.parent_snapshot_id is None and (snapshot.sequence_number or 0) <= 1
