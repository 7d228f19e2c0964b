"""A table of BigQuery.

``bigquery:PROJECT.DATASET.TABLE?mode=…&method=load|storage_write&location=…``; the dataset has to
exist. Credentials are the application's default ones; ``BIGQUERY_EMULATOR_HOST`` names an emulator,
and ``BIGQUERY_STORAGE_EMULATOR_HOST`` where it serves the Storage Write API.

**The token is a job.** What makes a load visible is one job, whose id follows from the table and
the run id, and whose labels hold the token: see :mod:`.jobs`. BigQuery remembers jobs, and
so tokens, for 180 days. A table that was deleted and made again holds no token of the old one.

**What the job does.** With ``method=load`` (the default) load jobs bring staged files to a stage
(see :mod:`.stage`), from where they lie if that is Google Cloud Storage; with
``method=storage_write`` a stream of the Storage Write API does. The job is then a query of one
transaction, over all of the load's tables, which checks the stage's rows and puts them where they
belong. Where rows are only added and one load job can do it all, that is the job.

**What BigQuery cannot hold.** A null array is an empty one. Rows with a null in an array, or with a
number in JSON that BigQuery would round, are refused.

Deletions of upserts (``deleted=COLUMN``) are kept in a table of their own, ``TABLE__deleted``: key,
and what orders rows. Commits that upsert or replace take turns by ``TABLE__turns``, of one row.
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar

from google.api_core.exceptions import GoogleAPIError
from google.cloud import bigquery

from ....schemas.forms.bigquery import holds_decimal
from ....schemas.problems import did_you_mean, list_names
from ..destination import Commit
from ..errors import DestinationError, Taken, Unavailable
from ..refusals import refuse
from ..tables import Held, Load, Refused, TableDestination, held_by, naming, parse_options
from .files import Files, files_of, find_unfit
from .jobs import (
    RETRY,
    SECONDS,
    Jobs,
    connected,
    digest,
    explained,
    finish,
    labelled,
    labels,
)
from .sql import NOTHING, Staged, old_rows, script, takes_turns, tombstones, turns
from .stage import (
    Loading,
    delete_stage,
    has_same_modes,
    is_direct,
    stage_by_jobs,
    stage_by_stream,
)
from .tables import Made, born, examine, fields_of, find, make, make_table

_METHODS = ("load", "storage_write")
_TARGET = re.compile(r"(?P<project>[\w.:-]+)\.(?P<dataset>\w+)\.(?P<table>[\w -]+)")
_LOCATION = re.compile(r"[A-Za-z0-9-]+")


@dataclass(frozen=True)
class BigQueryDestination(TableDestination):
    """The table ``target``: ``PROJECT.DATASET.TABLE``."""

    refuses: ClassVar[bool] = True
    replaces_spans: ClassVar[bool] = True

    @property
    def service(self) -> str:
        return f"bigquery:{self._dataset}"

    def load(self, commit: Commit, loads: Sequence[Load]) -> None:
        with self._jobs() as jobs:
            tables = [self._made(jobs, load) for load in loads]
            name = _commit_name(self.target, tables[-1].born, commit.token.run_id)
            if jobs.succeeded(name):
                raise Taken
            try:
                ours = _Attempt(self, jobs, commit, loads, tables, name).commit()
            except (DestinationError, Unavailable, GoogleAPIError) as error:
                # Who was quicker has tidied up what we were at.
                if jobs.succeeded(name):
                    raise Taken from error
                raise
            if not ours:
                raise Taken

    def held(self, run_id: str) -> Held | None:
        with self._jobs() as jobs:
            table = find(jobs.client, self.target)
            if table is None:
                return None
            job = jobs.succeeded(_commit_name(self.target, born(table), run_id))
            return job and Held.from_json(labelled(job.labels))

    def examine(self, load: Load) -> None:
        with self._jobs() as jobs:
            examine(jobs.client, load)

    def expire(
        self, table: str, column: str, before: float, *, dry_run: bool = False
    ) -> int | None:
        with self._jobs() as jobs:
            if find(jobs.client, table) is None:
                return 0
            said = old_rows(table, column, before)
            sql = f"SELECT COUNT(*) AS n {said}" if dry_run else f"DELETE {said}"
            job = jobs.client.query(sql, location=jobs.location, retry=RETRY, timeout=SECONDS)
            finish(job, (table, column))
            return next(iter(job.result())).n if dry_run else job.num_dml_affected_rows

    def holds_decimal(self, precision: int, scale: int) -> bool:
        return holds_decimal(precision, scale)

    @property
    def method(self) -> str:
        return self.options.own.get("method", _METHODS[0])

    @property
    def _dataset(self) -> str:
        return self.target.rpartition(".")[0]

    def _made(self, jobs: Jobs, load: Load) -> Made:
        """Make the load's table and those beside it, or give them what they lack."""
        if takes_turns(load):
            make_table(jobs.client, turns(load))
        if load.deleted:
            make_table(jobs.client, tombstones(load, fields_of(load)))
        return make(jobs.client, load)

    @contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        with explained(self.place), connected(self._dataset.rpartition(".")[0]) as client:
            dataset = client.get_dataset(self._dataset, retry=RETRY, timeout=SECONDS)
            location = self.options.own.get("location") or dataset.location
            yield Jobs(client, location or "US")


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a commit, with a client at hand."""

    destination: BigQueryDestination
    jobs: Jobs
    to_commit: Commit
    loads: Sequence[Load]
    tables: Sequence[Made]
    name: str

    def commit(self) -> bool:
        """Give whether the commit was ours, and not another attempt's that was at it too."""
        if self.destination.method == "storage_write":
            return self._by_streams()
        with tempfile.TemporaryDirectory(prefix="millstream-") as folder:
            return self._by_load_jobs(folder)

    def _by_load_jobs(self, folder: str) -> bool:
        refused = Refused("", 0)
        staged: list[Staged] = []
        for load, table in zip(self.loads, self.tables, strict=True):
            unfit = find_unfit(load)
            refused = self._refuse(load, unfit) or refused
            required = [f.name for f in table.fields if f.mode == "REQUIRED"]
            files = files_of(load, unfit, required, folder)
            first, second = next(files, None), next(files, None)
            if first is None:
                continue
            if (
                len(self.loads) == 1
                and not load.replaces
                and second is None
                and is_direct(load, table, first.schema)
            ):
                ours = self._commit_directly(table, first, refused)
                if ours is not None:
                    return ours
            all_files = chain([first], [second] if second else [], files)
            staged.append(stage_by_jobs(self.jobs, self.to_commit, load, all_files, unfit))
        return self._commit_staged(staged, refused)

    def _commit_directly(self, table: Made, files: Files, refused: Refused) -> bool | None:
        """Have a load job be the commit; ``None`` where BigQuery does not take the files so."""
        exact = has_same_modes(table, files.schema)
        told = None if exact and not files.has_others else table.fields
        try:
            return self._commit(partial(Loading, self.jobs, files, table.name, told), refused)
        except DestinationError:
            if exact:
                raise
            return None

    def _by_streams(self) -> bool:
        refused = Refused("", 0)
        staged: list[Staged] = []
        for load in self.loads:
            if load.rows:
                rows, left_out = stage_by_stream(self.jobs, load, find_unfit(load))
                refused = self._refuse(load, left_out) or refused
                staged.append(rows)
        return self._commit_staged(staged, refused)

    def _refuse(self, load: Load, reasons: dict[int, str]) -> Refused | None:
        if not reasons:
            return None
        rows = sorted(reasons)
        return refuse(self.to_commit, load, rows, [reasons[row] for row in rows])

    def _commit_staged(self, staged: Sequence[Staged], refused: Refused) -> bool:
        replacing = [load for load in self.loads if load.replaces]
        sql = script(staged, replacing) if staged or replacing else NOTHING
        ours = self._commit(partial(_Query, self.jobs, sql), refused)
        for each in staged:
            delete_stage(self.jobs.client, each)
        return ours

    def _commit(self, starter: Callable[[dict[str, str]], Any], refused: Refused) -> bool:
        held = held_by(self.to_commit, self.loads, refused)
        names = {n for load in self.loads for n in load.schema.names}
        return self.jobs.commit(self.name, starter(labels(held.to_json())), names)


class _Query:
    """Starts a query job under an id."""

    def __init__(self, jobs: Jobs, sql: str, labels: dict[str, str]) -> None:
        self._jobs, self._sql = jobs, sql
        self._config = bigquery.QueryJobConfig(labels=labels)

    def __call__(self, job_id: str) -> Any:
        return self._jobs.client.query(
            self._sql, job_id=job_id, job_config=self._config, location=self._jobs.location,
            job_retry=None, retry=RETRY, timeout=SECONDS,
        )  # fmt: skip


def open_destination(scheme: str, rest: str, name: str, state: str = "") -> BigQueryDestination:
    """The destination of ``bigquery:PROJECT.DATASET.TABLE?mode=…&method=…&location=…``.

    Raises:
        DestinationError: no table is named, or an option cannot be used.
    """
    target, _, query = rest.partition("?")
    if not _TARGET.fullmatch(target):
        raise DestinationError(
            f"{scheme}:{target} names no table; write {scheme}:PROJECT.DATASET.TABLE"
        )
    with naming(scheme):
        options = parse_options(query, BigQueryDestination.modes, ("method", "location"))
    method = options.own.get("method", _METHODS[0])
    if method not in _METHODS:
        hint = did_you_mean(method, _METHODS) or f"; expected {list_names(_METHODS)}"
        raise DestinationError(f"{scheme}: no method {method!r}{hint}")
    location = options.own.get("location", "US")
    if not _LOCATION.fullmatch(location):
        raise DestinationError(
            f"{scheme}: no location {location!r}; write it as US or europe-west1"
        )
    place = f"{scheme}:{target}"
    uri = options.at(place)
    return BigQueryDestination(uri, name, place, target, options, state)


def _commit_name(target: str, born: str, run_id: str) -> str:
    """What the ids of jobs begin with that commit a run to a table."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", run_id)
    return f"millstream-{readable}-{digest(target, born, run_id)}"
