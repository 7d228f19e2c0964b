"""A Delta table: ``delta:PATH?mode=…``, on a local disk, ``s3://`` or ``gs://``.

Rows and token are one commit of the table's log (:mod:`.tokens`). Rows are appended by
deltalake's own writer; to upsert or to replace, files that hold a row which stands no more are
written anew (:mod:`.files`), and the commit is right for the version that was read alone: who
finds the table changed begins again. An upsert holds the load's keys and order in memory, never its
rows.

Keys that ``deleted`` rows delete are kept in a table of their own, ``PATH__deleted``, with the
order of the deletion, so that what arrives later and is older stays deleted. It is committed first,
as are partial states, which lie in ``PATH__states``.

What stores need to know is read from the environment, as deltalake reads it (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, …). A commit that died leaves data files
that nobody reads; vacuuming the table deletes them.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

import pyarrow as pa

from ....schemas.forms.ddl import quoted
from ....schemas.keys import hash_keys
from ... import storage
from ..destination import Commit
from ..errors import DestinationError, Taken
from ..tables import Held, Load, TableDestination, naming, parse_options
from .commit import TableCommit
from .errors import explained
from .table import delta_columns, made, missing_columns, opened
from .tokens import read_held

_ODD = re.compile(r"[%\[\]\\^|]")
"""What deltalake takes for a part of a URL, or dies of, in a local path."""


@dataclass(frozen=True)
class DeltaDestination(TableDestination):
    """A Delta table; ``target`` is its folder."""

    refuses: ClassVar[bool] = True
    replaces_spans: ClassVar[bool] = True

    @property
    def service(self) -> str:
        where = urlsplit(self.target)
        return f"{where.scheme}://{where.netloc}" if where.scheme else self.place

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        for load in loads:
            with explained(f"delta:{load.name}"):
                self._load_one(commit, loads, load)

    def held(self, run_id: str) -> Held | None:
        with explained(self.place):
            table = opened(self.target)
            return read_held(table, run_id) if table else None

    def examine(self, load: Load) -> None:
        with explained(f"delta:{load.name}"):
            if load.key:
                hash_keys(pa.RecordBatch.from_pylist([], load.schema), load.key)
            if table := opened(load.name):
                missing_columns(table, load)
                return
            delta_columns(load)
            if not storage.is_remote(load.name):
                _check_folder(load.name)

    def expire(self, table: str, column: str, before: float, *, dry_run: bool = False) -> int:
        with explained(f"delta:{table}"):
            found = opened(table)
            if found is None:
                return 0
            moment = dt.datetime.fromtimestamp(before, dt.UTC).isoformat()
            old = f"{quoted(column)} < '{moment}'"
            if not dry_run:
                return found.delete(old)["num_deleted_rows"]
            rows = pa.RecordBatchReader.from_stream(found.scan(columns=[column], predicate=old))
            return sum(batch.num_rows for batch in rows)

    def _load_one(self, commit: Commit, loads: Sequence[Load], load: Load) -> None:
        table = made(load)
        held = read_held(table, commit.token.run_id)
        if held is None:
            try:
                TableCommit(table, commit, loads, load).write()
            except Taken:
                if load.part == "data":
                    raise
                held = read_held(made(load), commit.token.run_id)
        elif load.part == "data":
            raise Taken
        if held and (held.token, held.digest) != (str(commit.token), commit.digest):
            self._refuse(held, commit.token)


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> DeltaDestination:
    """The destination of ``delta:PATH?mode=…``.

    Raises:
        DestinationError: the path or an option cannot be used.
    """
    said, _, query = rest.partition("?")
    if re.search(r"://[^/]*:[^/]*@", said):
        raise DestinationError(
            f"{scheme}: a URI is stored and printed: take the password out of it, and set it in "
            "the environment (AWS_SECRET_ACCESS_KEY and the like)"
        )
    path = storage.absolute(said.removeprefix("file://"))
    if not storage.is_remote(path) and (odd := _ODD.search(path)):
        raise DestinationError(f"{scheme}:{path}: deltalake takes no local path with a {odd[0]}")
    with naming(scheme):
        options = parse_options(query, DeltaDestination.modes)
    place = f"{scheme}:{path}"
    uri = options.at(place)
    return DeltaDestination(uri, name, place, path, options, state)


def _check_folder(path: str) -> None:
    """See whether a folder can be made."""
    there = os.path.dirname(path)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise DestinationError(f"delta:{path}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise DestinationError(f"delta:{path}: the folder {there} cannot be written to")
