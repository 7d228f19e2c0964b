"""What the conformance suite stages, commits and compares; and a process that dies as it commits.

As a program, it commits what a file holds, pickled, once it is told to on its standard input.
"""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import json
import os
import pickle
import struct
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import pyarrow as pa
import pytest
import tenacity
from millstream.schemas.arrow import IDENTITY_FIELDS
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.plan import Plan, Token
from millstream.transforms.receipts import Part, Receipt, content_digest
from millstream.transforms.run_folder import RunFolder
from millstream.transforms.runs import RunStore
from millstream.transforms.storage import StorageError
from millstream.transforms.write.destination import Commit, Destination, Output, OutputKind
from millstream.transforms.write.errors import Unavailable
from millstream.transforms.write.refusals import refused_letters
from millstream.transforms.write.stage import StagedFiles

from tests.services.destinations import Known, Law
from tests.services.peers import Peer

ROOT = Path(__file__).resolve().parents[3]
NOON = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
Moment = Literal["never", "before", "after"]
"""When a commit is interrupted: before the call that makes it visible, or after it."""
Row = dict[str, Any]

EVENTS = Table(
    (
        Field("id", "string", required=True),
        Field("at", "timestamp"),
        Field("amount", "integer"),
        Field("note", "string"),
        Field("tags", "array", items=Field("item", "string")),
    ),
    ("id",),
    "at",
    has_identity=True,
)
"""The table of most tests: records with a key and an event time."""


def event(n: int, **values: Any) -> Row:
    """A record like no other, with some values of one's own."""
    at = NOON + dt.timedelta(seconds=n)
    common = {"id": f"e{n}", "at": at, "amount": n, "note": f"note {n}", "tags": [str(n)] * (n % 3)}
    return {**common, **values}


def events(*numbers: int, **values: Any) -> list[Row]:
    """Records by their numbers."""
    return [event(n, **values) for n in numbers]


def payload(row: Row) -> bytes:
    """The bytes that a record is said to come from."""
    return json.dumps(row, default=str, sort_keys=True).encode()


def batch_of(rows: Sequence[Row], table: Table = EVENTS) -> pa.RecordBatch:
    """Rows as the pipeline would stage them. ``_source`` and ``_position`` may be among the values;
    without, they are ``s`` and the row's number."""
    columns = [pa.array([row.get(f.name) for row in rows], f.type) for f in table.schema]
    if not table.has_identity:
        return pa.RecordBatch.from_arrays(columns, schema=table.schema)
    identity = [
        pa.array([row.get("_source", "s") for row in rows], pa.string()).dictionary_encode(),
        pa.array([row.get("_position", n) for n, row in enumerate(rows)], pa.int64()),
        pa.array([payload(row) for row in rows], pa.binary()),
    ]
    schema = pa.schema([*table.schema, *IDENTITY_FIELDS])
    return pa.RecordBatch.from_arrays([*columns, *identity], schema=schema)


class Work(NamedTuple):
    """A commit, and where it goes: everything that another process needs to know."""

    destination: Destination
    commit: Commit

    def do(self) -> None:
        self.destination.commit(self.commit)

    @property
    def held(self) -> bool:
        """Whether the destination holds this very commit."""
        found = self.destination.committed(self.commit.token.run_id)
        return found is not None and (found.token, found.digest) == (
            self.commit.token,
            self.commit.digest,
        )

    def letters(self) -> list[Row]:
        """The dead letters of rows that the destination says it refused."""
        found = self.destination.committed(self.commit.token.run_id)
        assert found is not None
        assert self.commit.run is not None
        if not found.refused:
            return []
        path = os.path.join(self.commit.run.path, found.refused)
        return [row for batch in refused_letters(path) for row in batch.to_pylist()]


def again(work: Work) -> None:
    """Commit as a process does that knows nothing of the first attempt."""
    pickle.loads(pickle.dumps(work)).do()


@dataclass(frozen=True)
class Target:
    """A table of a destination that nobody has used, and the folder that rows are staged in."""

    scheme: str
    known: Known
    peer: Peer
    state: str
    table: str = field(default_factory=lambda: f"t_{uuid.uuid4().hex[:12]}")

    def another(self) -> Target:
        """Another table."""
        return replace(self, table=f"t_{uuid.uuid4().hex[:12]}")

    def needs(self, law: Law) -> None:
        """Skip the test where the destination is excused."""
        if reason := self.known.lacks.get(law):
            pytest.skip(f"{self.scheme}: {reason}")

    def needs_mode(self, query: str) -> None:
        """Skip the test where the destination has no such mode, and says why."""
        mode: Any = dict(parse_qsl(query)).get("mode", "append")
        if mode not in getattr(self.output().destination, "modes", ("append",)):
            pytest.skip(f"{self.scheme}: {self.known.lacks[mode]}")
        assert mode not in self.known.lacks

    def output(self, query: str = "", kind: OutputKind = "records", name: str = "events") -> Output:
        return Output(name, self.peer.uri(self.table, query), kind, state=self.state)

    def begun(self, run_id: str, plan: str) -> tuple[Token, RunFolder]:
        """A run, as far as committing needs one."""
        store = RunStore(self.state)
        token = store.begin(Plan("job", "c", "1.0.0", plan), run_id, reprocess=True).token
        return token, store.folder(token)

    def staged(
        self,
        *files: Sequence[Row],
        table: Table = EVENTS,
        query: str = "",
        run_id: str = "r1",
        plan: str = "p",
        kind: OutputKind = "records",
    ) -> Work:
        """Rows ready to be committed, each sequence in a file of its own."""
        batches = [batch_of(rows, table) for rows in files if rows]
        return self.staged_parts({"data": table}, {"data": batches}, query, run_id, plan, kind)

    def staged_parts(
        self,
        tables: Mapping[Part, Table],
        parts: Mapping[Part, Sequence[pa.RecordBatch]],
        query: str = "",
        run_id: str = "r1",
        plan: str = "p",
        kind: OutputKind = "aggregates",
    ) -> Work:
        """Batches of several parts ready to be committed, each in a file of its own."""
        output = self.output(query, kind)
        token, run = self.begun(run_id, plan)
        receipts: list[Receipt] = []
        for part, batches in parts.items():
            for batch in batches:
                files = StagedFiles(output, token, part)
                files.write(batch)
                receipts += files.close()
        digest = content_digest(receipts)
        return Work(output.destination, Commit(token, digest, tuple(receipts), tables, run))

    def commit(self, *files: Sequence[Row], **options: Any) -> Work:
        """Stage rows, and commit them."""
        work = self.staged(*files, **options)
        work.do()
        return work

    def read(self, table: Table = EVENTS, part: Part = "data") -> pa.Table:
        """The visible rows of a part."""
        name = self.table if part == "data" else f"{self.table}__states"
        # Required columns are null in rows that were there before them.
        return self.peer.read(name, pa.schema([f.with_nullable(True) for f in table.schema]))

    def rows(self, table: Table = EVENTS, part: Part = "data") -> Counter[Any]:
        """The visible rows and how often each is there, in a form that can be compared."""
        read = self.read(table, part)
        return counted(read.to_pylist(), table)

    def assert_holds(self, rows: Sequence[Row], table: Table = EVENTS) -> None:
        """The table holds these rows, each once (or at least once, if that is the promise)."""
        if not self.known.null_arrays:
            arrays = [f.name for f in table.fields if f.type == "array"]
            rows = [{**row, **{n: row.get(n) or [] for n in arrays}} for row in rows]
        found, expected = self.rows(table), counted(rows, table)
        if not self.known.once:
            found, expected = Counter(set(found)), Counter(set(expected))
        assert found == expected

    def staged_files(self) -> list[str]:
        """Names of files that wait to be committed."""
        return [str(path) for path in Path(self.state).rglob("*.staged")]


def counted(rows: Sequence[Row], table: Table) -> Counter[Any]:
    """Rows, by their values in the order of the table's columns."""
    return Counter(tuple(_comparable(row.get(f.name), f) for f in table.fields) for row in rows)


def comparable(values: Sequence[Any], field: Field) -> list[Any]:
    """Values of a field in a form in which they are equal if they are the same."""
    return [_comparable(value, field) for value in values]


def _comparable(value: Any, field: Field) -> Any:
    if value is None:
        return None
    match field.type:
        case "json":
            said = json.loads(value, parse_float=_number, parse_int=_number)
            return json.dumps(said, sort_keys=True)
        case "number":  # -0.0 is not 0.0, and NaN is NaN
            return "nan" if value != value else struct.pack(">d", value)
        case "object":
            return tuple(_comparable(value[f.name], f) for f in field.fields)
        case "array":
            assert field.items is not None
            return tuple(_comparable(item, field.items) for item in value)
        case "timestamp":
            return value.astimezone(dt.UTC)
    return value


def _number(text: str) -> str:
    """A number of JSON with all of its digits; a text of it would be in quotes."""
    return f"number {Decimal(text).normalize(Context(prec=1000))}"


class Interrupted(BaseException):
    """The process is as good as dead: no ``except Exception`` sees it."""


@contextmanager
def interrupted(
    where: tuple[str, str], moment: Moment, act: Callable[[], Any], call: int = 0
) -> Iterator[Callable[[], int]]:
    """Act before or after one of the calls that ``Peer.interrupt_commit`` names.

    Args:
        act: raises, or ends the process.
        call: which of the calls, from 0.

    Yields:
        What gives the number of calls so far.
    """
    place, attribute = where
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    for part in filter(None, name.split(".")):
        owner = getattr(owner, part)
    original = inspect.getattr_static(owner, attribute)
    calls = 0

    def patched(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != call or moment == "never":
            return original(*args, **options)
        if moment == "before":
            act()
        original(*args, **options)
        return act()

    patch = pytest.MonkeyPatch()
    patch.setattr(owner, attribute, patched)
    try:
        yield lambda: calls
    finally:
        patch.undo()


def raising(error: BaseException) -> Callable[[], Any]:
    """A function that raises."""

    def act() -> None:
        raise error

    return act


PATIENCE_SECONDS = 60
DIED = 86
"""What a process that dies as it was told exits with."""


class Process:
    """A process of its own that commits, once it is told to go."""

    def __init__(
        self, work: Work, target: Target, *, moment: Moment = "never", folder: Path
    ) -> None:
        path = folder / f"{uuid.uuid4().hex}.pickle"
        path.write_bytes(pickle.dumps((work, target.peer.interrupt_commit(), moment)))
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def ready(self) -> Process:
        """Wait until it has imported everything. What libraries say meanwhile is passed over."""
        assert self._process.stdout is not None
        said = []
        for line in iter(self._process.stdout.readline, ""):
            if line == "ready\n":
                return self
            said.append(line)
        self.end()
        raise AssertionError(f"it ended before it was ready: {''.join(said)}")

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self, seconds: float = 120) -> tuple[int, str]:
        """Its exit code, and what it said."""
        try:
            said, _ = self._process.communicate(timeout=seconds)
        finally:
            self._process.kill()
        return self._process.returncode, said

    def run(self) -> tuple[int, str]:
        """From go to end."""
        self.ready().go()
        return self.end()


def _main(path: str) -> None:
    work, where, moment = pickle.loads(Path(path).read_bytes())
    print("ready", flush=True)
    sys.stdin.readline()
    # As a run does: again, if the service is busy, or another process has tidied up.
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((Unavailable, StorageError)),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        stop=tenacity.stop_after_delay(PATIENCE_SECONDS),
        reraise=True,
    )
    with interrupted(where, moment, lambda: os._exit(DIED)):
        retrying(work.do)


if __name__ == "__main__":
    _main(sys.argv[1])
