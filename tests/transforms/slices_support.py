"""A small job whose slices are committed by hand, and what it has to make of a topic."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from millstream.schemas.aggregates.open_windows import Trigger
from millstream.schemas.aggregates.spec import aggregate_spec
from millstream.schemas.arrow import WATERMARK, batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.transforms.carry import Carry, Reached, SourceState
from millstream.transforms.dead_letters import Origin
from millstream.transforms.event_clock import EventClock
from millstream.transforms.intervals.accumulate import LATE
from millstream.transforms.intervals.chain import Chain
from millstream.transforms.intervals.commit import Commits
from millstream.transforms.intervals.keys import Horizon
from millstream.transforms.intervals.slices import (
    FACTS,
    AccumulateSlices,
    Gathered,
)
from millstream.transforms.intervals.windows import OpenAggregate
from millstream.transforms.plan import Plan, Token
from millstream.transforms.runs import RunStore
from millstream.transforms.tallies import Tally
from millstream.transforms.write.destination import Output
from millstream.transforms.write.files import live_files
from millstream.transforms.write.formats import BRIEF
from millstream.transforms.write.stage import StagedFiles

FIELDS = (Field("ts", "timestamp", required=True), Field("page", "string"))
CONTRACT = Contract("i", "1", "views", FIELDS, event_time="ts")
SECOND = 10**6
SIZE = 10
"""Seconds of a window."""
SPEC = aggregate_spec(
    "views", window={"fixed": f"{SIZE}s"}, by=["page"], metrics={"n": "count()"}, contract=CONTRACT
)
ORIGIN = Origin("", "job").of(CONTRACT)

Row = tuple[int, str]
"""Event time in seconds, page."""
Topic = dict[str, list[Row]]
"""The rows of each source, in their order."""
Slice = list[Any]


class Reader:
    """Reads a topic in slices, and gives the facts of each as a pipeline would."""

    def __init__(self, topic: Topic, outputs: dict[str, Output], states: Any = None) -> None:
        self.topic, self.outputs = topic, outputs
        self.states: dict[str, SourceState] = states or {s: SourceState() for s in topic}
        self._token = Token("s0", "0" * 64)

    def checkpoint(self) -> Reader:
        """A reader that begins where this one stands, whatever this one does."""
        return Reader(self.topic, self.outputs, dict(self.states))

    def read(self, sizes: Mapping[str, int]) -> Slice:
        clock = EventClock("ts", 0, self.states)
        facts: Slice = []
        for source, state in self.states.items():
            rows = self.topic[source][state.next : state.next + sizes.get(source, 0)]
            end = state.next + len(rows)
            if rows:
                facts += self._facts(source, state.next, rows, clock)
            newest = clock.newest(source)
            facts.append(Reached(source, state.next, end, newest, floor=state.floor))
            self.states[source] = msgspec.structs.replace(state, next=end, newest=newest)
        return facts

    def rest(self) -> Slice:
        """All that is left."""
        return self.read({source: len(rows) for source, rows in self.topic.items()})

    def _facts(self, source: str, start: int, rows: list[Row], clock: EventClock) -> Slice:
        batch = clock.stamp(batch_of(source, start, rows))
        return [Tally(source, "read", len(rows)), *self.written(batch)]

    def written(self, batch: pa.RecordBatch) -> Slice:
        """The facts of records that go to all outputs."""
        facts = self.staged("records", batch)
        for out in AccumulateSlices(OpenAggregate(SPEC, Trigger()), ORIGIN).process(batch):
            if out.tag == FACTS:
                facts.append(out.value)
            else:
                assert out.tag == LATE
                facts += self.staged("late", out.value)
        return facts

    def staged(self, output: str, batch: pa.RecordBatch) -> Slice:
        """The facts of rows that go to one output."""
        staged = StagedFiles(self.outputs[output], self._token, dropped=(WATERMARK,), format=BRIEF)
        staged.write(batch)
        return [*staged.close()]


def batch_of(source: str, start: int, rows: list[Row]) -> pa.RecordBatch:
    schema = batch_schema(CONTRACT)
    indices = pa.array([0] * len(rows), pa.int32())
    columns = [
        pa.array([time * SECOND for time, _ in rows], pa.int64()).view(schema.field("ts").type),
        pa.array([page for _, page in rows]),
        pa.DictionaryArray.from_arrays(indices, pa.array([source])),
        pa.array(range(start, start + len(rows)), pa.int64()),
        pa.array([b"%d" % time for time, _ in rows], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class Job:
    """The committing end of a job, in a folder, and what it has made visible."""

    def __init__(self, path: Path, horizon: Horizon | None = None) -> None:
        self.outputs = {
            "records": Output("records", f"jsonl:{path}/records"),
            "views": Output("views", f"jsonl:{path}/views", "aggregates"),
            "late": Output("late", f"jsonl:{path}/late", "side"),
        }
        if horizon:
            self.outputs["duplicates"] = Output("duplicates", f"jsonl:{path}/duplicates", "side")
        self.commits = Commits(
            chain=Chain(RunStore(str(path / "ledger"))),
            outputs=tuple(self.outputs.values()),
            ledger_uri=f"jsonl:{path}/ledger",
            aggregates=(OpenAggregate(SPEC, Trigger()),),
            late="late",
            horizon=horizon,
            close=True,
        )
        self.plan = Plan("job", "i", "1", "d" * 64)
        self.carry = Carry()

    def reader(self, topic: Topic) -> Reader:
        self.carry = Carry(sources={source: SourceState() for source in topic})
        head = self.commits.chain.head()
        states = dict(head.carry.sources) if head else None
        return Reader(topic, self.outputs, states)

    def gathered(self) -> Gathered:
        head = self.commits.chain.head()
        carry = head.carry if head else self.carry
        return Gathered(self.commits, self.plan, carry)

    def commit(self, *slices: Slice) -> list[Slice]:
        """Commit slices at once; gives those that wait on."""
        gathered = self.gathered()
        for facts in slices:
            gathered.add(facts)
        list(gathered.commit())
        return gathered.slices

    def rows(self, output: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for file in live_files(self.outputs[output].uri)
            for line in Path(file).read_bytes().splitlines()
        ]

    def assert_exact(self, topic: Topic) -> None:
        """Each record is there once; each window once, with all that was on time; late the rest."""
        late, on_time = judged(topic)
        records = Counter(row["page"] for row in self.rows("records"))
        assert records == Counter(page for rows in topic.values() for _, page in rows)
        counts: Counter[tuple[str, str]] = Counter()
        for row in self.rows("views"):
            assert (row["window_start"], row["page"]) not in counts, "a window was given twice"
            counts[row["window_start"], row["page"]] = row["n"]
        wanted = Counter((moment(time // SIZE * SIZE), page) for time, page in on_time)
        assert counts == wanted
        found = Counter((row["source"], int(row["position"])) for row in self.rows("late"))
        assert found == Counter(late)


def moment(seconds: int) -> str:
    """As JSON lines have it."""
    at = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def judged(topic: Topic) -> tuple[list[tuple[str, int]], list[Row]]:
    """What is late, by source and position, and what is on time: by the rule, row by row."""
    late, on_time = [], []
    for source, rows in topic.items():
        newest: int | None = None
        for position, row in enumerate(rows):
            if newest is not None and row[0] // SIZE * SIZE + SIZE <= newest:
                late.append((source, position))
            else:
                on_time.append(row)
            newest = row[0] if newest is None else max(newest, row[0])
    return late, on_time


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Bag:
    """A state of a runner, which it puts back to what it was when a bundle fails."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self.items = list(items)

    def read(self) -> Any:
        return list(self.items)

    def add(self, item: Any) -> None:
        self.items.append(copy.deepcopy(item))

    def clear(self) -> None:
        self.items = []


class Value(Bag):
    def read(self) -> Any:
        return self.items[-1] if self.items else None

    def write(self, item: Any) -> None:
        self.items = [item]
