"""Jobs whose every output goes to one destination, and what they must leave there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.types as pt
import yaml
from millstream.schemas import dead_letters
from millstream.schemas.aggregates.spec import AggregateSpec, aggregate_spec
from millstream.schemas.aggregates.states import finalise, state_schema, visible_schema
from millstream.schemas.odcs import load_contract
from millstream.schemas.table import table_of_contract
from millstream.transforms import ledger
from millstream.transforms.plan import Token
from millstream.transforms.receipts import content_digest
from millstream.transforms.write.destination import Commit, Output

from tests.pipelines.clicks import (
    JobFolder,
    Letter,
    Row,
    contents,
    expected,
    lines,
    page_views,
    record_row,
    row_of,
)
from tests.services.destinations import Known
from tests.services.peers import Peer

EVENTS = 4_000
REFUSED = 40
"""Records of each job that a destination refuses which can."""
SECONDS = 180
"""No run takes as long."""
AGGREGATE: dict[str, Any] = {
    "name": "page_views",
    "window": {"fixed": "1m"},
    "by": ["page", "event_type"],
    "metrics": {
        "events": "count()",
        "revenue": "sum(amount)",
        "visitors": "approx_distinct(user_id)",
    },
}
RECORDS, LETTERS, LEDGER = "records", "dead_letters", "ledger"


class Expected(NamedTuple):
    """What an undisturbed run leaves, found without a line of the package."""

    records: Counter[Row]
    letters: Counter[Letter]
    results: dict[Row, Row]
    ledger: Counter[Row]


@dataclass(frozen=True)
class Day:
    """The input of all jobs for a destination, and the contract that it is held against."""

    folder: JobFolder
    refused: Path | None

    @classmethod
    def make(cls, path: Path, *, refused: bool) -> Day:
        """Generate it; with ``refused``, also records that keep the contract, and that a
        destination is to refuse: the contract lets amounts be less than zero."""
        folder = JobFolder.make(path, events=EVENTS)
        contract = path / "clickstream.odcs.yaml"
        text = contract.read_text("utf-8")
        rule = "        logicalTypeOptions: {minimum: 0}\n"
        assert rule in text
        contract.write_text(text.replace(rule, ""), "utf-8")
        return cls(folder, folder.put("refused.jsonl", _below_zero(folder)) if refused else None)

    @property
    def contract(self) -> str:
        return str(self.folder.path / "clickstream.odcs.yaml")

    @property
    def spec(self) -> AggregateSpec:
        said = {key: value for key, value in AGGREGATE.items() if key != "name"}
        return aggregate_spec("page_views", **said, contract=load_contract(self.contract))

    def expected(self) -> Expected:
        files = [file for file in self.folder.files if file != self.refused]
        found = expected(files)
        # The reference knows the example's own contract, to which an amount below zero is bad.
        letters: Counter[Letter] = Counter()
        for letter, count in found.letters.items():
            codes = tuple(code for code in letter.codes if code != "RANGE")
            letters[letter._replace(codes=codes)] += count
        refused: Counter[Row] = Counter()
        read, dead = Counter(found.read), Counter(found.dead)
        counts: Counter[Row] = Counter()
        if self.refused:
            name = self.refused.name
            for position, payload in lines(contents(self.refused)):
                refused[row_of(_loads(payload))] += 1
                letters[Letter(name, str(position), payload, ("DESTINATION",))] += 1
                read[name] += 1
        for source in read:
            late = read[source] if self.refused and source == self.refused.name else 0
            for output, gone in ((RECORDS, dead[source] + late), ("page_views", dead[source])):
                counts[source, output, read[source], read[source] - gone, gone] += 1
        results = page_views(found.records + refused)
        return Expected(found.records, letters, results, counts)


@dataclass(frozen=True)
class SinkJob:
    """A job whose every output goes to tables of one destination that nobody else uses."""

    scheme: str
    known: Known
    peer: Peer
    day: Day
    path: Path
    prefix: str = field(default_factory=lambda: f"k_{uuid.uuid4().hex[:8]}")

    def write(self) -> SinkJob:
        """Write the job file; make a table that refuses rows, where some are to be."""
        self.path.mkdir(parents=True)
        job = {
            "name": "clickstream",
            "contract": self.day.contract,
            "input": [f"{self.day.folder.path}/events/*"],
            "output": self.uri(RECORDS),
            "dead_letters": self.uri(LETTERS),
            "ledger": self.uri(LEDGER) if self.has_ledger else f"jsonl:{self.path}/ledger",
            "state": str(self.path / "state"),
            "aggregates": [{**AGGREGATE, "output": self.uri("page_views")}],
            "helpers": 0,
        }
        (self.path / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False), "utf-8")
        if self.day.refused:
            self._make_picky()
        return self

    @property
    def has_ledger(self) -> bool:
        return "ledger" not in self.known.lacks

    def table(self, output: str) -> str:
        return f"{self.prefix}_{output}"

    def uri(self, output: str) -> str:
        return self.peer.uri(self.table(output))

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job", "job.yaml"]
        # Not a pipe: what is said must not hold up who says it.
        with (self.path / "said.txt").open("w", encoding="utf-8") as said:
            return subprocess.Popen(
                command, cwd=self.path, stdout=subprocess.DEVNULL, stderr=said, text=True
            )

    def finish(self) -> tuple[int, str]:
        """Run the job to its end: its exit code, and what it said."""
        with self.start() as process:
            wait_for(lambda: False, process)
        return process.returncode, (self.path / "said.txt").read_text("utf-8")

    def has(self, name: str) -> bool:
        """Whether a file of the run is there: ``plan``, ``prepared``, ``record``."""
        runs = self.path / "state" / "_millstream" / "runs"
        return any(runs.glob(f"*/*/{name}.json"))

    def differences(self, expected: Expected) -> Iterator[str]:
        """How what the job has left differs from what it should have."""
        table = table_of_contract(load_contract(self.day.contract))
        records = Counter(map(record_row, self._rows(RECORDS, table.schema)))
        yield from _difference("records", records, expected.records)
        yield from _difference("dead letters", self._letters(), expected.letters)
        spec = self.day.spec
        shown = Counter(map(_result, self._rows("page_views", visible_schema(spec))))
        wanted = Counter({(*key, *value): 1 for key, value in expected.results.items()})
        yield from _difference("results", shown, wanted)
        states = self._read("page_views__states", state_schema(spec))
        made = Counter(map(_result, finalise(states, spec).to_pylist()))
        yield from _difference("results that the states give", made, wanted)
        yield from _difference("ledger", self._ledger(), expected.ledger)
        if staged := [str(path) for path in self.path.rglob("_millstream/staging/**/*.staged")]:
            yield f"staged files are left: {staged}"

    def _make_picky(self) -> None:
        output = Output(RECORDS, self.uri(RECORDS), state=str(self.path / "state"))
        table = table_of_contract(load_contract(self.day.contract))
        token = Token("made", "0" * 64)
        output.destination.commit(Commit(token, content_digest([]), (), {"data": table}))
        self.peer.refuse_negative(self.table(RECORDS), "amount")

    def _letters(self) -> Counter[Letter]:
        return Counter(
            Letter(
                Path(row["source"]).name,
                row["position"],
                row["payloadBytes"],
                tuple(sorted(row["codes"])),
            )
            for row in self._rows(LETTERS, dead_letters.SCHEMA)
        )

    def _ledger(self) -> Counter[Row]:
        if self.has_ledger:
            rows = self._rows(LEDGER, ledger.SCHEMA)
        else:
            rows = JobFolder(self.path).table("../ledger", "jsonl")
        names = ("output", "read", "written", "dead")
        return Counter((Path(r["source"]).name, *(r[name] for name in names)) for r in rows)

    def _rows(self, output: str, schema: pa.Schema) -> list[dict[str, Any]]:
        return self._read(output, schema).to_pylist()

    def _read(self, output: str, schema: pa.Schema) -> pa.Table:
        peer: Any = self.peer
        read = peer.read if self.known.once else peer.read_distinct
        return read(self.table(output), pa.schema(map(_stored, schema))).cast(schema)


def wait_for(is_time: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_time() and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.001)


def _difference(what: str, found: Counter[Any], wanted: Counter[Any]) -> Iterator[str]:
    for word, some in (("missing", wanted - found), ("too many", found - wanted)):
        if some:
            first = repr(next(iter(some)))[:300]
            yield f"{what}: {sum(some.values())} of {sum(wanted.values())} {word}, as {first}"


def _result(row: dict[str, Any]) -> Row:
    names = ("window_start", "page", "event_type", "events", "revenue", "visitors")
    return tuple(row[name] for name in names)


def _below_zero(folder: JobFolder) -> bytes:
    """Records of the day, and like none of them."""
    good = [
        line
        for file in folder.files
        for _, line in lines(contents(file))
        if b'"amount":null' in line and line.endswith(b"}")
    ]
    return b"".join(
        re.sub(rb'"event_id":"[^"]*"', b'"event_id":"%s"' % str(uuid.UUID(int=n)).encode(), line)
        .replace(b'"amount":null', b'"amount":-%d.25' % n) + b"\n"
        for n, line in enumerate(good[:REFUSED], 1)
    )  # fmt: skip


def _stored(column: pa.Field) -> pa.Field:
    """A column as services store it: dictionaries are how it lies in memory, and decimals of states
    that are too long for most are text in all."""
    kind = column.type
    if pt.is_dictionary(kind):
        return column.with_type(kind.value_type)
    return column.with_type(pa.string()) if pt.is_decimal256(kind) else column


def _loads(payload: bytes) -> dict[str, Any]:
    return json.loads(payload, parse_float=Decimal)
